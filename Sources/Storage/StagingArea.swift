import BorgFormat
import Disk
import Glibc
import Synchronization
import SystemPackage

/// One session's private directory in one directory at the top of a store, or in the store's root, for objects that are not
/// published yet: `NAMESPACE/borg-serve.tmp/SESSION/`, its files named by numbers.
///
/// The session holds an advisory lock on the directory for as long as it lives, so that whoever opens the
/// repository next can tell a crash's leftovers from a living session's work, without a lock of Borg's.
final class StagingArea: Sendable {
  let directory: Directory
  /// The directory at the top, such as `data`; empty for the store's root.
  let top: String
  private let root: Directory
  private let session: String
  private let counter = Atomic<UInt64>(0)

  /// Creates the directory, and the one at the top if need be.
  init(root: Directory, top: String) throws(Errno) {
    let parent = Self.parent(in: top)
    for _ in 0..<Self.attempts {
      let session = "\(Host.processID)-\(Hex.string(Host.randomBytes(8)))"
      try root.makeDirectories(parent)
      do {
        try root.makeDirectory("\(parent)/\(session)")
        let directory = try root.directory("\(parent)/\(session)")
        // A sweeper may have been faster; then the directory is gone, or as good as gone. Where
        // directories cannot be locked, age protects instead; see `abandoned`.
        if let isOurs = try? directory.lock(), !isOurs { continue }
        let here = try directory.status()
        guard let there = try root.status("\(parent)/\(session)"), there.inode == here.inode else { continue }
        (self.root, self.top, self.session, self.directory) = (root, top, session, directory)
        return
      } catch .noSuchFileOrDirectory {
        // A session that ended removed the shared parent in between.
        continue
      }
    }
    throw .noSuchFileOrDirectory
  }

  /// How often others may get in the way before something else must be wrong, such as a dangling link.
  private static let attempts = 100

  private static func parent(in top: String) -> String {
    top.isEmpty ? RepositoryLayout.stagingDirectory : "\(top)/\(RepositoryLayout.stagingDirectory)"
  }

  /// A file name that is new in this area.
  func nextName() -> String {
    String(counter.wrappingAdd(1, ordering: .relaxed).newValue)
  }

  /// Removes the area and all that is left in it.
  func remove() throws(Errno) {
    let parent = Self.parent(in: top)
    try root.removeTree("\(parent)/\(session)")
    do {
      try root.removeDirectory(parent)
    } catch .directoryNotEmpty, .noSuchFileOrDirectory, .fileExists {
      // Other sessions have theirs in it, or were faster.
    }
  }

  /// Removes the areas of sessions that no longer live; returns how many there were.
  ///
  /// Costs one failed `open` where there are none. What cannot be removed stays, silently: it is
  /// hidden from every Borg, and the next opener tries again.
  static func sweep(root: Directory, top: String) -> Int {
    let parent = parent(in: top)
    guard let shared = try? root.directory(parent),
      let sessions = try? shared.entries()
    else { return 0 }
    var swept = 0
    for session in sessions {
      guard let directory = abandoned(session, in: shared) else { continue }
      // The lock has to be held until all is gone: the directory may be one that is just being made.
      withExtendedLifetime(directory) {
        if (try? shared.removeTree(session)) != nil { swept += 1 }
      }
    }
    try? root.removeDirectory(parent)
    return swept
  }

  /// The directory of a session that no longer lives, with its lock; nil if it may live.
  private static func abandoned(_ session: String, in shared: Directory) -> Directory? {
    guard let directory = try? shared.directory(session) else { return nil }
    do {
      return try directory.lock() ? directory : nil
    } catch {
      // Directories cannot be locked here (some network file systems). A living session touches its
      // directory far more often than once a day, and would only fail to publish, not lose silently.
      guard let status = try? directory.status() else { return nil }
      return Host.now() / 1000 - status.modified > 24 * 3600 ? directory : nil
    }
  }
}
