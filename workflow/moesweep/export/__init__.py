"""The trace in other tools' formats: SimAI text, Chakra traces, Perfetto timelines, unrolled Parquet."""
