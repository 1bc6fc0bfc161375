import BorgFormat
import Disk
import SystemPackage

/// The directory `lock.exclusive`: whoever has his file in it may touch the roster, or has the whole lock.
///
/// It comes into being with the file in it, by a rename that replaces nothing: 1.1 makes it first and then its file, and
/// 1.2 and later rename theirs over an empty one, so that both may believe to have it (W20). Only one session of a process
/// works with it at a time: a file by its own name that it has not made is one that a dead process of the same number
/// left. Source of the protocol: borg 1.4.5 `src/borg/locking.py`, `ExclusiveLock`.
struct LockDirectory {
  static let name = "lock.exclusive"
  /// For how long an empty directory may be one that 1.1 is about to put its file into. That takes it no time at all,
  /// unless it is stopped in between.
  static let emptySeconds: Int64 = 10

  let root: Directory
  let label: String
  let holder: LockHolder
  let processIsAlive: @Sendable (Int) -> Bool
  let reporter: any Reporter

  private var ownFile: String { "\(Self.name)/\(holder.fileName)" }

  /// A second name that every Borg takes for this holder's: what a crash leaves under it goes the way of the lock itself.
  var scratchFile: String { "\(Self.name)/\(scratchName)" }
  private var scratchName: String { "\(holder.host).\(holder.process)-0\(String(holder.thread, radix: 16))" }

  /// Whether the process of this host is gone. Other hosts' count as alive, and so do this session's.
  func isStale(_ other: LockHolder) -> Bool {
    guard other.host == holder.host, other.thread == 0 else { return false }
    return other.process != holder.process && !processIsAlive(other.process)
  }

  /// As `isStale`, where this session has nothing yet: what bears its name was left by a dead process.
  private func isLeftOver(_ other: LockHolder) -> Bool { other == holder || isStale(other) }

  func failure(_ name: String, _ errno: Errno) -> ServeError {
    .lockFailed(
      "\(label)/\(Self.name)", reason: "[Errno \(errno.rawValue)] \(errno.description): '\(label)/\(name)'")
  }

  // MARK: Taking it

  /// Whether it was to be had, after what dead processes left there was removed. Throws `lockFailed`.
  ///
  /// `complains` says whether names that cannot be understood are worth a message.
  func take(complains: Bool) throws(ServeError) -> Bool {
    let (temporary, now) = try prepare()
    defer { discard(temporary) }
    if try occupy(with: temporary) { return true }
    guard try clear(now: now, complains: complains) else { return false }
    return try occupy(with: temporary)
  }

  /// Makes the directory under a temporary name, our file in it; returns what time the file system has it.
  private func prepare() throws(ServeError) -> (name: String, now: Int64) {
    let name = "\(Self.name).\(randomName()).tmp"
    do {
      try root.makeDirectory(name)
    } catch {
      throw failure(name, error)
    }
    do {
      _ = try root.file("\(name)/\(holder.fileName)", .createByMask)
      return (name, try root.status(name)?.modified ?? .min)
    } catch {
      discard(name)
      throw failure("\(name)/\(holder.fileName)", error)
    }
  }

  /// Removes our temporary directory, if it is still one.
  private func discard(_ temporary: String) {
    _ = try? root.remove("\(temporary)/\(holder.fileName)")
    try? root.removeDirectory(temporary)
  }

  private func occupy(with temporary: String) throws(ServeError) -> Bool {
    do {
      try root.rename(temporary, to: Self.name, in: root, replacing: false)
    } catch .fileExists, .directoryNotEmpty {
      return false
    } catch .noSuchFileOrDirectory where (try? isOurs()) == true {
      // A network file system that carries out a call and then asks again reports what it finds.
    } catch {
      throw failure(temporary, error)
    }
    // Where a rename cannot be told not to replace, 1.1 may be about to put its file into our directory.
    if (try? isOursAlone()) == true { return true }
    withdraw()
    return false
  }

  /// Whether our file is there.
  func isOurs() throws(Errno) -> Bool { try root.status(ownFile) != nil }

  /// Whether our file is there, and no other.
  func isOursAlone() throws(Errno) -> Bool {
    let names: [String]
    do {
      names = try root.directory(Self.name).entries()
    } catch .noSuchFileOrDirectory {
      return false
    }
    return names.contains(holder.fileName)
      && names.allSatisfy { $0 == holder.fileName || $0 == scratchName }
  }

  /// Whether nothing keeps us out any more: everything there was left by dead processes, and is removed.
  private func clear(now: Int64, complains: Bool) throws(ServeError) -> Bool {
    let names: [String]
    let modified: Int64
    do {
      let directory = try root.directory(Self.name)
      (names, modified) = (try directory.entries(), try directory.status().modified)
    } catch .noSuchFileOrDirectory {
      return true
    } catch {
      throw failure(Self.name, error)
    }
    if names.isEmpty, now - modified < Self.emptySeconds { return false }
    for name in names {
      guard let other = LockHolder(fileName: name) else {
        if complains {
          reporter.log(
            .error, .locking,
            "Found malformed lock \(name) in \(label)/\(Self.name). Please check/fix manually.")
        }
        return false
      }
      guard isLeftOver(other) else { return false }
      do {
        if try root.remove("\(Self.name)/\(name)") {
          reporter.log(.warning, .locking, "Killed stale lock \(name).")
        }
      } catch {
        if complains {
          reporter.log(
            .error, .locking, "Found stale lock \(name), but cannot delete due to \(error.description)")
        }
        return false
      }
    }
    return removeEmpty()
  }

  /// Removes the directory unless somebody else has it by now.
  @discardableResult
  private func removeEmpty() -> Bool {
    do {
      try root.removeDirectory(Self.name)
      return true
    } catch .directoryNotEmpty, .fileExists, .noSuchFileOrDirectory {
      return true
    } catch {
      reporter.log(.error, .locking, "Failed to remove lock dir: \(error.description)")
      return false
    }
  }

  // MARK: Giving it back

  /// Removes our file and then the directory, each if it is there.
  func withdraw() {
    _ = try? root.remove(scratchFile)
    _ = try? root.remove(ownFile)
    removeEmpty()
  }

  /// Removes the files of dead processes of this host.
  func removeStale() throws(ServeError) {
    let now = try? root.status().modified
    _ = try clear(now: now ?? .min, complains: true)
  }

  /// Removes the directory and everything in it, whosever it is.
  func breakAll() throws(ServeError) {
    try ServeError.doing("remove", "\(label)/\(Self.name)") { () throws(Errno) in
      try root.removeTree(Self.name)
    }
  }

  /// Removes temporary directories of waiters that were killed (W19): all that is in them was left by processes of this
  /// host that are gone. Empty ones have to be old. To be called with the lock held; what fails is left to the next.
  func sweep() {
    guard let names = try? root.entries() else { return }
    let now = (try? root.status(Self.name)?.modified) ?? .min
    for name in names where name.hasPrefix("\(Self.name).") && name.hasSuffix(".tmp") {
      guard let directory = try? root.directory(name), let files = try? directory.entries(),
        let modified = try? directory.status().modified
      else { continue }
      if files.isEmpty, now - modified < Self.emptySeconds { continue }
      guard files.allSatisfy({ LockHolder(fileName: $0).map(isLeftOver) ?? false }) else { continue }
      for file in files { _ = try? directory.remove(file) }
      try? root.removeDirectory(name)
    }
  }
}

/// Eight characters that make a temporary name new, like Python's.
func randomName() -> String {
  String(Hex.string(Host.randomBytes(4)))
}
