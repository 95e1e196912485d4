from moesweep.library import BadInput as BadInput
from moesweep.library import Cluster as Cluster
from moesweep.library import Node as Node
from moesweep.library import best as best
from moesweep.library import explain as explain
from moesweep.library import load_cluster as load_cluster
from moesweep.library import load_model as load_model
from moesweep.library import predict as predict
from moesweep.library import read as read
from moesweep.library import scan as scan
from moesweep.library import screen as screen

__version__: str
