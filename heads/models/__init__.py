"""The heads and their parts: encoders, pools, dropout, input scaling."""
