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

  /// Another descriptor of the same socket, which is the caller's to close: for an event loop that has its own way to accept.
  public func duplicate() throws(Errno) -> Int32 {
    try retrying { fcntl(descriptor, F_DUPFD_CLOEXEC, 3) }
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

/// The sockets that systemd has opened for this process: as many descriptors from 3 on as `LISTEN_FDS` says, if
/// `LISTEN_PID` is this process. Nil entries are no listening unix stream sockets.
public func inheritedSockets(processID: [UInt8]?, count: [UInt8]?) -> [ListeningSocket?] {
  let number = { (text: [UInt8]?) in text.flatMap { Int(String(decoding: $0, as: UTF8.self)) } }
  guard number(processID) == Host.processID, let count = number(count), count > 0 else { return [] }
  // More than any unit has: none of them is usable.
  guard count <= 64 else { return [nil] }
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
