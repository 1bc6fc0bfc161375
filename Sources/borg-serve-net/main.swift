import Disk
import Glibc

_exit(ListenCommand.run())
