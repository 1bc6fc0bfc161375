import BorgFormat
import Disk
import SystemPackage

extension SegmentRepository {
  /// Removes everything in `root`, whatever it is; links are removed, not followed. The directory itself stays.
  ///
  /// The config goes first, durably: what is left by a crash is no repository any more. Locks go last, so that nobody
  /// begins to use what is half gone. Goes on past what cannot be removed, then throws the first failure.
  static func removeTree(of root: Directory, label: String) throws(ServeError) {
    try ServeError.doing("remove", label) { () throws(Errno) in
      _ = try root.remove("config")
      try root.sync()
      var failure: Errno?
      let entries = try root.entries()
      let isLock = { (name: String) in name.hasPrefix("lock.") }
      for entry in entries.filter({ !isLock($0) }) + entries.filter(isLock) {
        do throws(Errno) { try remove(entry, in: root) } catch { failure = failure ?? error }
      }
      if let failure { throw failure }
      try root.sync()
    }
  }

  private static func remove(_ entry: String, in root: Directory) throws(Errno) {
    do {
      _ = try root.remove(entry)
    } catch .isDirectory {
      try root.removeTree(entry)
    }
  }
}
