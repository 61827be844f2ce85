"""Files of random make for gn: malformed .npy, mutants of HDF5 files, and sound HDF5 files.

`python -m pytest -n auto tests/fuzz --mutants 5000 --sound 2000 --seed 7` tries that many.
`--only 4711` tries the one file of that number, which is then in the folder that the failure names.
"""
