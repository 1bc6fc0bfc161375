import CSyscalls
import Glibc
public import SystemPackage

// One of the files made for unsafe code: each call hands the kernel a buffer that Swift owns for just the time of
// the call.

/// A connection on a unix socket. Its descriptor never blocks and is closed with the last that holds this object:
/// both byte streams do, so that no thread can ever use a number that has become another file's.
public final class ConnectedSocket: Sendable {
  let descriptor: Int32

  /// Takes over an open descriptor.
  init(_ descriptor: Int32) { self.descriptor = descriptor }

  deinit { _ = Glibc.close(descriptor) }

  /// Connects to a socket without waiting. `EAGAIN`: it lives, and its queue is full.
  public init(connectingTo path: [UInt8]) throws(Errno) {
    descriptor = try retrying { unsafe borg_socket_connect(path, path.count) }
  }

  /// Ends the connection in both directions: reads and writes that wait return at once, and so do all later ones.
  public func shutDown() { _ = shutdown(descriptor, Int32(SHUT_RDWR)) }

  /// Who connected, if the kernel tells.
  public var peer: Peer? {
    var (process, user): (Int64, Int64) = (0, 0)
    guard unsafe borg_socket_peer(descriptor, &process, &user) == 0 else { return nil }
    return Peer(processID: Int(process), userID: Int(user))
  }

  /// A process at the other end of a connection, as it was when it connected.
  public struct Peer: Hashable, Sendable {
    public let processID: Int
    public let userID: Int
  }
}

/// A unix socket that clients connect to.
///
/// A class because its descriptor is closed once, when nobody can wait for clients on it any more.
public final class ListeningSocket: Sendable {
  private let owner: Owner
  var descriptor: Int32 { owner.descriptor }
  /// Where clients find it; an abstract name, which only an inherited socket can have, begins with a NUL.
  public let path: [UInt8]

  /// Bytes in the longest path that a socket can have.
  public static var pathLimit: Int { Int(borg_socket_path_limit()) }

  /// Binds a new socket to a path at which there is nothing. Nobody can connect before `listen`.
  public init(bindingTo path: [UInt8]) throws(Errno) {
    self.path = path
    owner = Owner(try retrying { unsafe borg_socket_bind(path, path.count) })
  }

  private init(_ owner: Owner, path: [UInt8]) { (self.owner, self.path) = (owner, path) }

  /// The same socket, under the name that it has got since.
  public func named(_ path: [UInt8]) -> ListeningSocket { ListeningSocket(owner, path: path) }

  private final class Owner: Sendable {
    let descriptor: Int32
    init(_ descriptor: Int32) { self.descriptor = descriptor }
    deinit { _ = Glibc.close(descriptor) }
  }

  /// Takes over a descriptor that the process was started with; nil if it is no listening unix stream socket.
  public init?(inherited descriptor: Int32) {
    guard borg_socket_adopt(descriptor) == 1 else { return nil }
    owner = Owner(descriptor)
    var name = [UInt8](repeating: 0, count: Self.pathLimit + 1)
    let count = unsafe borg_socket_path(descriptor, &name, name.count)
    path = Array(name.prefix(max(0, Int(count))))
  }

  /// Lets clients connect.
  public func listen() throws(Errno) {
    _ = try retrying { borg_socket_listen(descriptor) }
  }

  /// The next client; nil if none waits any more. Throws what keeps the process from having another descriptor.
  public func accept() throws(Errno) -> ConnectedSocket? {
    do {
      return ConnectedSocket(try retrying { borg_socket_accept(descriptor) })
    } catch {
      switch error {
      // The client is gone already, or another process that has the socket too was faster.
      case .wouldBlock, .connectionAbort: return nil
      default: throw error
      }
    }
  }
}

/// What can be waited for until `raise`: a way to wake a thread that waits for clients.
public final class WakeUp: Sendable {
  fileprivate let descriptor: Int32

  public init() throws(Errno) {
    descriptor = try retrying { borg_event_descriptor() }
  }

  deinit { _ = Glibc.close(descriptor) }

  /// Wakes the waiting thread, or the next one that waits.
  public func raise() { _ = borg_raise_event(descriptor) }

  /// Waits until it was raised or one of the sockets has a client, at most `milliseconds` (-1: for good). What was
  /// raised is taken back.
  public func wait(orFor sockets: [ListeningSocket], milliseconds: Int32) {
    var waiting = [pollfd(fd: descriptor, events: Int16(POLLIN), revents: 0)]
    waiting += sockets.map { pollfd(fd: $0.descriptor, events: Int16(POLLIN), revents: 0) }
    guard unsafe poll(&waiting, nfds_t(waiting.count), milliseconds) > 0, waiting[0].revents != 0 else {
      return
    }
    var count: UInt64 = 0
    _ = unsafe read(descriptor, &count, MemoryLayout<UInt64>.size)
  }
}

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

  fileprivate init(_ status: stat) {
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

/// Sets a file's mode whatever the mask is.
public func setFileMode(at path: [UInt8], _ mode: UInt32) throws(Errno) {
  let path = terminated(path)
  _ = try retrying { unsafe chmod(path, mode_t(mode)) }
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
/// It has to be a directory and no link, this user's, and (unless `anyMode`) closed to everybody else.
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
  return anyMode || mode == 0o700 ? nil : "has mode \(String(mode, radix: 8)), not 700"
}

/// The process id of a server in a file beside its socket, locked for as long as this object lives.
///
/// A class because the lock ends with the descriptor.
public final class PIDFile: Sendable {
  public let path: [UInt8]
  private let descriptor: Int32
  private let identity: FileIdentity
  /// Whether nothing stood there before.
  private let isNew: Bool

  /// Why there can be no such file.
  public enum Failure: Error, Equatable {
    /// Another server of this kind has it.
    case locked(by: String)
    /// What stands there holds something else than a number.
    case foreign
    case system(Errno)
  }

  /// Opens and locks the file, which is created if it is missing, and changes nothing in it.
  public init(at path: [UInt8]) throws(Failure) {
    self.path = path
    while true {
      let (descriptor, isNew) = try Self.open(path)
      do {
        let identity = try Self.lock(descriptor)
        // A server that ended a moment ago may have removed the name of what was opened.
        guard (try? FileIdentity(at: path)) == identity else {
          _ = Glibc.close(descriptor)
          continue
        }
        (self.descriptor, self.isNew, self.identity) = (descriptor, isNew, identity)
        return
      } catch {
        _ = Glibc.close(descriptor)
        throw error
      }
    }
  }

  deinit { _ = Glibc.close(descriptor) }

  private static func open(_ path: [UInt8]) throws(Failure) -> (Int32, isNew: Bool) {
    let name = terminated(path)
    let flags = O_RDWR | O_NOFOLLOW | O_NONBLOCK | O_NOCTTY | O_CLOEXEC
    do throws(Errno) {
      do throws(Errno) {
        return (try retrying { unsafe Glibc.open(name, flags | O_CREAT | O_EXCL, 0o666) }, true)
      } catch .fileExists {
        return (try retrying { unsafe Glibc.open(name, flags) }, false)
      }
    } catch {
      throw error == .tooManySymbolicLinkLevels ? .foreign : .system(error)
    }
  }

  private static func lock(_ descriptor: Int32) throws(Failure) -> FileIdentity {
    var status = stat()
    guard unsafe fstat(descriptor, &status) == 0, status.st_mode & S_IFMT == S_IFREG else { throw .foreign }
    let content = content(of: descriptor)
    guard content.allSatisfy({ (0x30...0x39).contains($0) || $0 == 0x0a }), content.count <= 20 else {
      throw .foreign
    }
    do throws(Errno) {
      _ = try retrying { flock(descriptor, LOCK_EX | LOCK_NB) }
    } catch .wouldBlock {
      throw .locked(by: String(decoding: content.filter { $0 != 0x0a }, as: UTF8.self))
    } catch {
      // Some network file systems have no locks; then the look at the socket has to do.
    }
    return FileIdentity(status)
  }

  private static func content(of descriptor: Int32) -> [UInt8] {
    var buffer = [UInt8](repeating: 0, count: 32)
    let count = (try? retrying { unsafe pread(descriptor, &buffer, buffer.count, 0) }) ?? 0
    return Array(buffer.prefix(count))
  }

  /// Writes this process's id.
  public func write() throws(Errno) {
    let text = Array(String(Host.processID).utf8)
    _ = try retrying { ftruncate(descriptor, 0) }
    _ = try retrying { unsafe pwrite(descriptor, text, text.count, 0) }
  }

  /// Removes the file, if it is still this one.
  public func remove() { identity.remove(at: path) }

  /// Removes the file if this process created it.
  public func removeIfNew() { if isNew { remove() } }
}

/// The sockets that systemd has opened for this process: as many descriptors from 3 on as `LISTEN_FDS` says, if
/// `LISTEN_PID` is this process. Nil entries are no listening unix stream sockets.
public func inheritedSockets(processID: [UInt8]?, count: [UInt8]?) -> [ListeningSocket?] {
  let number = { (text: [UInt8]?) in text.flatMap { Int(String(decoding: $0, as: UTF8.self)) } }
  guard number(processID) == Host.processID, let count = number(count), (1...64).contains(count) else {
    return []
  }
  return (3..<3 + Int32(count)).map { ListeningSocket(inherited: $0) }
}

/// Tells a service manager how this process is doing, such as `READY=1`; `address` is `NOTIFY_SOCKET`'s value, where
/// an abstract name begins with `@`.
public func notifyServiceManager(at address: [UInt8], _ state: String) throws(Errno) {
  var name = address
  if name.first == UInt8(ascii: "@") { name[0] = 0 }
  let message = Array(state.utf8)
  _ = try retrying { unsafe borg_socket_send_notice(name, name.count, message, message.count) }
}

private func terminated(_ path: [UInt8]) -> [CChar] { path.map { CChar(bitPattern: $0) } + [0] }
