"""The guardian's entry point, run by path in an interpreter without site and environment.

Importing `launcher.process` would load asyncio and take longer than starting a worker. So this
script stands in for the package that the guardian's modules are in; they import nothing else of
the launcher, and are still compiled once only.
"""

import sys

package = type(sys)("launcher.process.guardian")
package.__path__ = [__file__.rpartition("/")[0]]
sys.modules[package.__name__] = package

from launcher.process.guardian.program import main  # noqa: E402 -- needs the stand-in

main()
