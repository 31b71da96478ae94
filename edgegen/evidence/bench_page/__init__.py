"""One page of a bench for an integrator and their customer: a file without others, made from
bench.json and the pictures beside it. (numpy and Pillow only)
"""
