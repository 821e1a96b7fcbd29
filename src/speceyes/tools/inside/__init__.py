"""What runs behind the walls: a process of its own that executes blocks of code, and nothing else.

It refuses to know the rest of speceyes, which is not there. Nothing it says is trusted outside.
"""
