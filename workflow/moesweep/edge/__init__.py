"""The edge to what users give: files, quantities, paths and schemas, read without trust; problems named."""
