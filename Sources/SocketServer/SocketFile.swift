public import Disk
import SystemPackage

/// A listening socket with a name in the file system and a file with the process id beside it.
///
/// Clients find the name only once the socket listens, and it takes the place of nothing but a dead socket. A class
/// because `remove` may be called from two places, and acts once.
public final class SocketFile: Sendable {
  public let listener: ListeningSocket
  /// Where both names are.
  public let directory: RepositoryPath
  private let file: FileIdentity
  private let processFile: PIDFile

  /// Why there is no such socket, in words for the administrator.
  public struct Failure: Error, Equatable {
    public let message: String

    public init(message: String) { self.message = message }
  }

  /// Listens at a path; missing parents are made, with mode 0777 less the mask. Group members may connect, as with the
  /// original (mode 0770), unless another mode, or group, is wanted.
  ///
  /// The order matters: the lock on the process file keeps two servers of ours apart, the look at the path keeps us
  /// away from other programs' sockets, and a hard link gives the listening socket its name only if the name is free.
  /// (`RENAME_NOREPLACE` would too, but not on all file systems.)
  public init(at path: [UInt8], mode: UInt32 = 0o770, group: UInt32? = nil) throws(Failure) {
    let name = Self.text(path)
    guard path.count <= ListeningSocket.pathLimit else {
      throw Failure(
        message: "the path of the socket is longer than \(ListeningSocket.pathLimit) bytes: \(name)")
    }
    guard path.last != UInt8(ascii: "/") else { throw Failure(message: "the socket needs a name: \(name)") }
    let directory = Self.directory(of: path)
    do {
      self.directory = try RepositoryPath(resolving: directory)
      _ = try self.directory.create()
    } catch {
      throw Failure(message: "cannot create the directory \(Self.text(directory)): \(error)")
    }
    let processFile = try Self.lock(Self.processPath(beside: path), for: name)
    do throws(Failure) {
      try Self.makeRoom(at: path)
      (listener, file) = try Self.listen(at: path, directory, processFile, mode, group)
    } catch {
      processFile.removeIfNew()
      throw error
    }
    self.processFile = processFile
  }

  /// Removes both names, as far as they are still this server's.
  public func remove() {
    file.remove(at: listener.path)
    processFile.remove()
  }

  /// `X.sock` has `X.pid` beside it, anything else gets `.pid` behind it. Source: borg 2.0.0b20 `remote.py`; earlier
  /// ones replace every `.sock` in the path.
  static func processPath(beside path: [UInt8]) -> [UInt8] {
    let suffix = Array(".sock".utf8)
    let ends = path.count > suffix.count && path.suffix(suffix.count).elementsEqual(suffix)
    return path.dropLast(ends ? suffix.count : 0) + Array(".pid".utf8)
  }

  private static func lock(_ path: [UInt8], for socket: String) throws(Failure) -> PIDFile {
    do throws(PIDFile.Failure) {
      return try PIDFile(at: path)
    } catch {
      switch error {
      case .locked(let process):
        let who = process.isEmpty ? "another server" : "another server (PID \(process))"
        throw Failure(message: "\(who) already listens on the socket \(socket)")
      case .foreign:
        throw Failure(message: "\(text(path)) is in the way: it holds no process id; it is left alone")
      case .system(let error):
        throw Failure(message: "cannot open \(text(path)): \(error)")
      }
    }
  }

  private static func makeRoom(at path: [UInt8]) throws(Failure) {
    let state: SocketPathState
    do {
      state = try SocketPathState(at: path)
    } catch {
      throw Failure(message: "cannot look at \(text(path)): \(error)")
    }
    switch state {
    case .nothing: break
    case .dead(let identity): identity.remove(at: path)
    case .living: throw Failure(message: "another server already listens on the socket \(text(path))")
    case .foreign: throw Failure(message: "\(text(path)) is in the way: it is no socket; it is left alone")
    }
  }

  private static func listen(
    at path: [UInt8], _ directory: [UInt8], _ processFile: PIDFile, _ mode: UInt32, _ group: UInt32?
  ) throws(Failure) -> (ListeningSocket, FileIdentity) {
    let hidden = directory + Array("/.\(String(UInt32.random(in: 0...0xfff_ffff), radix: 16))".utf8)
    do throws(Errno) {
      let bound = try ListeningSocket(bindingTo: hidden)
      defer { try? removeFile(at: hidden) }
      if let group { try setFileGroup(at: hidden, group) }
      try setFileMode(at: hidden, mode)
      try bound.listen()
      guard let file = try FileIdentity(at: hidden) else { throw Errno.noSuchFileOrDirectory }
      // Whoever sees the socket may want to know whose it is.
      try processFile.write()
      do throws(Errno) {
        try linkFile(at: hidden, to: path)
      } catch {
        processFile.remove()
        throw error
      }
      return (bound.named(path), file)
    } catch {
      switch error {
      case .fileExists:
        throw Failure(message: "something else has just taken the path of the socket: \(text(path))")
      case .fileNameTooLong:
        throw Failure(message: "the directory of the socket has too long a path: \(text(directory))")
      default:
        throw Failure(message: "cannot listen on the socket \(text(path)): \(error)")
      }
    }
  }

  private static func directory(of path: [UInt8]) -> [UInt8] {
    guard let slash = path.lastIndex(of: UInt8(ascii: "/")) else { return Array(".".utf8) }
    return slash == 0 ? Array("/.".utf8) : Array(path[..<slash])
  }

  static func text(_ path: [UInt8]) -> String { String(decoding: path, as: UTF8.self) }
}
