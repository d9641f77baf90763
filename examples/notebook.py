"""Without asyncio, or where an event loop runs already (a notebook): the blocking twin.

python examples/notebook.py
"""

from __future__ import annotations

import longshore
import longshore.sync

# one command
print(longshore.run("host", ["uname", "-sr"]).text, end="")

# a container that stays, for as long as the block
with longshore.sync.Engine() as engine:
    box = engine.launch("notebook", root="host", args=["sleep", "infinity"], owner="remove")
    for number in range(3):
        print(box.exec(["sh", "-c", f"echo $(( {number} * {number} ))"]).communicate()[0].decode(), end="")
    print([process.command for process in box.top()])
