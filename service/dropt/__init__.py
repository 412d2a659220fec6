"""dropt: does dropout help this network, where, how much, and how sure are we?"""

__version__ = "0.1.0"
