import CSyscalls
import Glibc
public import SystemPackage

/// The kernel's own wall around a process that serves restricted paths (Landlock): should the server's check
/// have a hole, nothing behind it opens.
public enum Confinement {
  /// What came of confining this process.
  public enum Outcome: Equatable, Sendable {
    /// Only what is below these directories can be written, or read beside the name service's files.
    case confined(to: [RepositoryPath])
    /// The kernel does not know how, or too little of it; the server's own check is all there is.
    case unavailable(String)
  }

  /// Whether the kernel can confine a process that has to rename files between directories: Landlock of
  /// version 2, Linux 5.19.
  public static var isAvailable: Bool { borg_landlock_version() >= 2 }

  /// Confines this thread, and all that it starts later, for good.
  ///
  /// To be called before any thread starts and before anything is read from a peer. Existing roots get what
  /// serving needs; for one that does not exist the nearest directory above it gets it. `removable` are
  /// directories in which files may be removed in addition (a socket's).
  ///
  /// Throws when the kernel knows Landlock and refuses all the same.
  public static func confine(to granted: GrantedRoots, removable: [RepositoryPath] = []) throws(Errno)
    -> Outcome
  {
    let version = borg_landlock_version()
    guard version >= 2 else {
      return .unavailable(version < 1 ? "the kernel has no Landlock" : "the kernel's Landlock is too old")
    }
    let ruleset = try retrying { borg_landlock_ruleset(version) }
    defer { _ = close(ruleset) }
    let roots = try granted.resolved.map(existing)
    for root in roots { try allow(borg_landlock_write, root, in: ruleset, version) }
    for directory in removable { try allow(borg_landlock_remove, directory, in: ruleset, version) }
    for name in nameServiceFiles {
      // Where it is a link, what it leads to now is meant. What is not there needs no rule.
      guard let path = try? RepositoryPath(resolving: Array(name.utf8)) else { continue }
      do { try allow(borg_landlock_read, path, in: ruleset, version) } catch .noSuchFileOrDirectory {}
    }
    _ = try retrying { borg_landlock_restrict(ruleset) }
    return .confined(to: roots)
  }

  private static func allow(
    _ access: borg_landlock_access, _ path: RepositoryPath, in ruleset: Int32, _ version: Int32
  ) throws(Errno) {
    let descriptor = try SystemCalls().openHandle(path: path.bytes)
    defer { _ = close(descriptor) }
    _ = try retrying { borg_landlock_allow(ruleset, version, descriptor, access) }
  }

  /// The directory itself, or the nearest one above it that is there.
  private static func existing(_ path: RepositoryPath) -> RepositoryPath {
    var path = path
    while (try? SystemCalls().openHandle(path: path.bytes)).map({ _ = close($0) }) == nil,
      let parent = path.parent
    {
      path = parent
    }
    return path
  }

  /// What the C library reads to find this host's full name, which goes into lock objects.
  private static let nameServiceFiles = [
    "/etc/hosts", "/etc/host.conf", "/etc/hostname", "/etc/resolv.conf", "/etc/nsswitch.conf",
    "/etc/gai.conf",
    "/etc/services", "/etc/ld.so.cache", "/etc/ld.so.preload", "/lib", "/lib64", "/usr/lib", "/usr/lib64",
    "/usr/local/lib", "/run/systemd/resolve", "/run/nscd", "/run/resolvconf",
    "/run/NetworkManager/resolv.conf",
    "/run/systemd/machines", "/var/lib/misc",
  ]
}
