import CSyscalls
import Glibc
import SystemPackage

/// The kernel's own wall around a process that serves restricted paths (Landlock): should the server's check
/// have a hole, nothing behind it opens.
public enum Confinement {
  /// What came of confining this process.
  public enum Outcome: Equatable, Sendable {
    /// Only what is below `directories` can be written, or read beside the name service's files. `substitutes`
    /// of them stand for a root that does not exist yet.
    case confined(to: [RepositoryPath], substitutes: Int)
    /// The kernel does not know how, or there is nothing to confine it to: the server's own check is all there is.
    case unavailable(String)
  }

  /// Why a kernel that could confine this process did not.
  public struct Failure: Error, Equatable, CustomStringConvertible {
    public let description: String
  }

  /// Whether the kernel can confine a process that has to rename files between directories: Landlock of
  /// version 2, Linux 5.19.
  public static var isAvailable: Bool { borg_landlock_version() >= 2 }

  /// Confines this thread, and all that it starts later, for good.
  ///
  /// To be called before any thread starts and before anything is read from a peer. Existing roots get what
  /// serving needs; for one that does not exist the nearest directory above it gets it. `removable` are
  /// directories in which files may be removed in addition (a socket's), `readable` ones below which they may be read
  /// (certificates').
  public static func confine(
    to granted: GrantedRoots, removable: [RepositoryPath] = [], readable: [RepositoryPath] = []
  ) throws(Failure) -> Outcome {
    guard isAvailable else {
      return .unavailable("the kernel has no Landlock of version 2")
    }
    let version = borg_landlock_version()
    let roots: [RepositoryPath]
    do { roots = try granted.roots } catch {
      throw Failure(description: "cannot resolve the granted paths: \(error)")
    }
    let existing = try roots.map(existing)
    guard !existing.contains(.root) else {
      return .unavailable("the root directory is all that there is of a granted path")
    }
    let ruleset = try doing("make a ruleset") { () throws(Errno) in
      try retrying { borg_landlock_ruleset(version) }
    }
    defer { _ = close(ruleset) }
    for root in existing { try allow(borg_landlock_write, root, in: ruleset, version) }
    for directory in removable { try allow(borg_landlock_remove, directory, in: ruleset, version) }
    for directory in readable { try allow(borg_landlock_read, directory, in: ruleset, version) }
    for name in nameServiceFiles {
      // Where it is a link, what it leads to now is meant. What cannot be reached could not be read either.
      guard let path = try? RepositoryPath(resolving: Array(name.utf8)) else { continue }
      try? allow(borg_landlock_read, path, in: ruleset, version)
    }
    _ = try doing("confine the process") { () throws(Errno) in
      try retrying { borg_landlock_restrict(ruleset) }
    }
    return .confined(to: existing, substitutes: zip(roots, existing).count { $0 != $1 })
  }

  private static func allow(
    _ access: borg_landlock_access, _ path: RepositoryPath, in ruleset: Int32, _ version: Int32
  ) throws(Failure) {
    try doing("confine the process to \(path.text)") { () throws(Errno) in
      let descriptor = try SystemCalls().openHandle(path: path.bytes)
      defer { _ = close(descriptor) }
      _ = try retrying { borg_landlock_allow(ruleset, version, descriptor, access) }
    }
  }

  /// The directory itself, or the nearest one above it if it does not exist.
  private static func existing(_ path: RepositoryPath) throws(Failure) -> RepositoryPath {
    var path = path
    while true {
      do {
        // As a directory, by a slash: what is mounted when it is first used has to be mounted now.
        _ = close(try SystemCalls().openHandle(path: path.bytes + [UInt8(ascii: "/")]))
        return path
      } catch {
        guard error == .noSuchFileOrDirectory || error == .notDirectory, let parent = path.parent else {
          throw Failure(description: "cannot open \(path.text): \(error)")
        }
        path = parent
      }
    }
  }

  private static func doing<Result>(_ what: String, _ body: () throws(Errno) -> Result) throws(Failure)
    -> Result
  {
    do {
      return try body()
    } catch {
      throw Failure(description: "cannot \(what) by Landlock: \(error)")
    }
  }

  /// What the C library reads to find this host's full name, which goes into lock objects, and users' homes.
  private static let nameServiceFiles = [
    "/etc/hosts", "/etc/host.conf", "/etc/hostname", "/etc/resolv.conf", "/etc/nsswitch.conf",
    "/etc/gai.conf", "/etc/passwd", "/var/lib/sss",
    "/etc/services", "/etc/ld.so.cache", "/etc/ld.so.preload", "/lib", "/lib64", "/usr/lib", "/usr/lib64",
    "/usr/local/lib", "/run/systemd/resolve", "/run/nscd", "/run/resolvconf",
    "/run/NetworkManager/resolv.conf",
    "/run/systemd/machines", "/var/lib/misc",
  ]
}
