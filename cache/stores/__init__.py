"""What lies on the disk: the layout, Zarr and HDF5, durable files. The reader and the writer stand above."""
