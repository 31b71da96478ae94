"""Make one page of a bench for an integrator and their customer: a single file, made from
bench.json and the pictures beside it. It needs numpy and Pillow only.
"""
