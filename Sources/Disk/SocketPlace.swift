import CSyscalls
import Glibc
public import SystemPackage

// What stands where a socket is to be, and the few calls on paths that it needs. One of the files made for unsafe
// code: paths are C strings.

/// What stands at a path where a socket is wanted.
public enum SocketPathState: Sendable, Equatable {
  case nothing
  /// A socket that answers, or that only somebody else may ask.
  case living
  /// A socket that nobody listens on, and which file it is.
  case dead(FileIdentity)
  /// Anything but a socket.
  case foreign

  /// Looks, and connects to what is a socket.
  public init(at path: [UInt8]) throws(Errno) {
    guard let (identity, type) = try FileIdentity.look(at: path) else {
      self = .nothing
      return
    }
    guard type == S_IFSOCK else {
      self = .foreign
      return
    }
    do {
      _ = try ConnectedSocket(connectingTo: path)
      self = .living
    } catch {
      switch error {
      case .connectionRefused: self = .dead(identity)
      case .noSuchFileOrDirectory: self = .nothing
      // `EAGAIN`: its queue is full. Whatever else it is, it is not known to be dead.
      default: self = .living
      }
    }
  }
}

/// Which file stands at a name: it tells whether the file there is still the one that it was.
public struct FileIdentity: Hashable, Sendable {
  let device: UInt64
  let inode: UInt64

  init(_ status: stat) {
    (device, inode) = (UInt64(status.st_dev), UInt64(status.st_ino))
  }

  /// What stands at a path, links not followed; nil if nothing does.
  public init?(at path: [UInt8]) throws(Errno) {
    guard let (identity, _) = try Self.look(at: path) else { return nil }
    self = identity
  }

  fileprivate static func look(at path: [UInt8]) throws(Errno) -> (FileIdentity, type: mode_t)? {
    var status = stat()
    do {
      let path = terminated(path)
      _ = try retrying { unsafe lstat(path, &status) }
      return (FileIdentity(status), status.st_mode & S_IFMT)
    } catch .noSuchFileOrDirectory {
      return nil
    }
  }

  /// Removes the name if this file still stands there; whether it did.
  @discardableResult
  public func remove(at path: [UInt8]) -> Bool {
    guard let found = try? FileIdentity(at: path), found == self else { return false }
    return (try? removeFile(at: path)) != nil
  }
}

/// Removes a file, a socket or a link.
public func removeFile(at path: [UInt8]) throws(Errno) {
  let path = terminated(path)
  _ = try retrying { unsafe unlink(path) }
}

/// Gives a file a second name, which must be free: `EEXIST` if it is not.
public func linkFile(at path: [UInt8], to newPath: [UInt8]) throws(Errno) {
  let (path, newPath) = (terminated(path), terminated(newPath))
  _ = try retrying { unsafe link(path, newPath) }
}

/// Sets a file's mode whatever the mask is; a link that has come into its place is not followed (`ELOOP`).
public func setFileMode(at path: [UInt8], _ mode: UInt32) throws(Errno) {
  let path = terminated(path)
  let handle = try retrying { unsafe open(path, borg_o_path | O_NOFOLLOW | O_CLOEXEC) }
  defer { _ = close(handle) }
  var status = stat()
  _ = try retrying { unsafe fstat(handle, &status) }
  guard status.st_mode & S_IFMT != S_IFLNK else { throw .tooManySymbolicLinkLevels }
  // A handle's mode can be changed by its name only.
  _ = try retrying { unsafe chmod("/proc/self/fd/\(handle)", mode_t(mode)) }
}

/// Gives a file another group; a link is not followed.
public func setFileGroup(at path: [UInt8], _ group: UInt32) throws(Errno) {
  let path = terminated(path)
  _ = try retrying { unsafe lchown(path, uid_t.max, group) }
}

/// The number of a group of this machine; nil if there is none with the name.
public func groupID(named name: String) -> UInt32? {
  var record = unsafe group()
  var buffer = [CChar](repeating: 0, count: 64 * 1024)
  var found: UnsafeMutablePointer<group>?
  guard unsafe getgrnam_r(name, &record, &buffer, buffer.count, &found) == 0 else { return nil }
  return unsafe found?.pointee.gr_gid
}

/// Makes one directory with this mode, less the mask; whether it is new.
public func makeDirectory(at path: [UInt8], mode: UInt32) throws(Errno) -> Bool {
  let path = terminated(path)
  do {
    _ = try retrying { unsafe mkdir(path, mode_t(mode)) }
    return true
  } catch .fileExists {
    return false
  }
}

/// Why a directory is not one that only this user can have put something into; nil if it is.
///
/// It has to be a directory and no link, this user's, (unless `anyMode`) closed to everybody else, and nobody else's to
/// rename. Source of the rules: platformdirs `unix.py`.
public func privateDirectoryProblem(at path: [UInt8], anyMode: Bool = false) -> String? {
  var status = stat()
  // With a slash or a dot at its end the name of a link would be that of its target.
  var bare = path
  while bare.count > 1, bare.last == UInt8(ascii: "/") { bare.removeLast() }
  let name = terminated(bare)
  do throws(Errno) {
    _ = try retrying { unsafe lstat(name, &status) }
  } catch {
    return error == .noSuchFileOrDirectory ? "is missing" : "cannot be looked at: \(error)"
  }
  switch status.st_mode & S_IFMT {
  case S_IFDIR: break
  case S_IFLNK: return "is a symbolic link"
  default: return "is not a directory"
  }
  if status.st_uid != geteuid() { return "belongs to user \(status.st_uid)" }
  let mode = status.st_mode & 0o777
  guard anyMode || mode == 0o700 else { return "has mode \(String(mode, radix: 8)), not 700" }
  return problemAbove(bare)
}

/// Who may rename a directory can put another one in its place: nobody but root and this user may above it, as far as
/// sticky bits do not see to it.
private func problemAbove(_ path: [UInt8]) -> String? {
  guard var above = (try? RepositoryPath(resolving: path))?.parent else { return nil }
  while true {
    var status = stat()
    let name = terminated(above.bytes)
    guard unsafe lstat(name, &status) == 0 else { return "lies in \(above.text), which cannot be looked at" }
    let isOpen = status.st_mode & (S_IWGRP | S_IWOTH) != 0 && status.st_mode & S_ISVTX == 0
    let isOthers = status.st_uid != 0 && status.st_uid != geteuid()
    if isOpen || isOthers { return "lies in \(above.text), in which others may rename it" }
    guard let next = above.parent else { return nil }
    above = next
  }
}
