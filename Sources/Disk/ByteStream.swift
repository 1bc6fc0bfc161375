import CSyscalls
import Glibc
import Synchronization
public import SystemPackage

/// The receiving end of a connection: a pipe, a socket, a terminal or a file.
///
/// A class because another thread can interrupt its blocking read.
public final class ByteInput: Sendable {
  private let descriptor: Int32
  /// Whose descriptor it is, if not the caller's: it stays open for as long as it may be used here.
  private let socket: ConnectedSocket?
  private let wake: Int32
  private let traffic = Atomic<UInt64>(0)
  /// Whether the end of the input says nothing about a peer, as with `< file`.
  public let isRegularFile: Bool

  /// Uses an open descriptor, which stays the caller's.
  public convenience init(_ descriptor: Int32) throws(Errno) { try self.init(descriptor, of: nil) }

  /// The receiving end of a socket.
  public convenience init(_ socket: ConnectedSocket) throws(Errno) {
    try self.init(socket.descriptor, of: socket)
  }

  private init(_ descriptor: Int32, of socket: ConnectedSocket?) throws(Errno) {
    self.descriptor = descriptor
    self.socket = socket
    self.wake = try retrying { borg_event_descriptor() }
    var status = stat()
    isRegularFile = unsafe fstat(descriptor, &status) == 0 && status.st_mode & S_IFMT == S_IFREG
  }

  deinit { _ = Glibc.close(wake) }

  /// Bytes that have been read so far.
  public var bytesMoved: UInt64 { traffic.load(ordering: .relaxed) }

  /// Makes a waiting, and every later, read return at once.
  public func interrupt() {
    _ = borg_raise_event(wake)
  }

  /// What a read came to.
  public enum Outcome: Sendable {
    /// The prefix that was given, and at least one byte behind it.
    case bytes([UInt8])
    case end
    case interrupted
  }

  /// Waits for bytes and returns them in a new array of at most `capacity`, behind a copy of `prefix`.
  public func read(behind prefix: ArraySlice<UInt8>, capacity: Int) throws(Errno) -> Outcome {
    guard try waitUntilReadable() else { return .interrupted }
    let room = max(capacity, prefix.count + 1)
    var failure: Errno?
    let block = unsafe [UInt8](unsafeUninitializedCapacity: room) { buffer, count in
      unsafe _ = buffer.update(fromContentsOf: prefix)
      count = prefix.count
      // The kernel writes at most what is left behind the prefix; only that much becomes the array's.
      do throws(Errno) {
        let start = unsafe buffer.baseAddress.map { unsafe $0 + prefix.count }
        count += try retrying { unsafe Glibc.read(descriptor, start, room - prefix.count) }
      } catch {
        failure = error
      }
    }
    traffic.add(UInt64(block.count - prefix.count), ordering: .relaxed)
    switch failure {
    case nil: return block.count == prefix.count ? .end : .bytes(block)
    // A peer that resets its connection has ended it.
    case .connectionReset, .ioError: return .end
    // Somebody else took the bytes, or made the descriptor non-blocking: wait again.
    case .wouldBlock: return try read(behind: prefix, capacity: capacity)
    case let failure?: throw failure
    }
  }

  /// What an appending read came to.
  public enum Arrival: Sendable {
    /// So many bytes, at least one.
    case bytes(Int)
    case end
    case interrupted
  }

  /// Waits for bytes and appends at most `room` of them; what stands in `buffer` is copied only if it has to grow.
  public func read(into buffer: inout [UInt8], room: Int) throws(Errno) -> Arrival {
    while true {
      guard try waitUntilReadable() else { return .interrupted }
      var result: Result<Int, Errno> = .success(0)
      buffer.append(addingCapacity: max(room, 1)) { output in
        unsafe output.withUnsafeMutableBufferPointer { space, count in
          do throws(Errno) {
            // The kernel writes at most what the buffer has room for; only that much becomes the array's.
            count = try retrying { unsafe Glibc.read(descriptor, space.baseAddress, space.count) }
            result = .success(count)
          } catch {
            result = .failure(error)
          }
        }
      }
      do throws(Errno) {
        let count = try result.get()
        traffic.add(UInt64(count), ordering: .relaxed)
        return count == 0 ? .end : .bytes(count)
      } catch {
        switch error {
        // A peer that resets its connection has ended it.
        case .connectionReset, .ioError: return .end
        // Somebody else took the bytes, or made the descriptor non-blocking.
        case .wouldBlock: continue
        default: throw error
        }
      }
    }
  }

  private func waitUntilReadable() throws(Errno) -> Bool {
    var waiting = [
      pollfd(fd: descriptor, events: Int16(POLLIN), revents: 0),
      pollfd(fd: wake, events: Int16(POLLIN), revents: 0),
    ]
    _ = try retrying { unsafe poll(&waiting, 2, -1) }
    return waiting[1].revents == 0
  }

  /// Whether the peer has closed its end, even if bytes are still to be read.
  public var isHungUp: Bool { hungUp(descriptor) }
}

/// The sending end of a connection.
public struct ByteOutput: Sendable {
  private let descriptor: Int32
  /// Whose descriptor it is, if not the caller's: it stays open for as long as it may be used here.
  private let socket: ConnectedSocket?
  private let traffic = Traffic()

  /// A class because all copies of the output count the same bytes.
  private final class Traffic: Sendable {
    let bytes = Atomic<UInt64>(0)
  }

  /// Bytes that are written at most at a time: a write that blocks counts them when it is done.
  private let step: Int

  /// Uses an open descriptor, which stays the caller's. `step`: how closely `bytesMoved` follows a slow peer.
  public init(_ descriptor: Int32, step: Int = .max) {
    (self.descriptor, socket, self.step) = (descriptor, nil, step)
  }

  /// The sending end of a socket.
  public init(_ socket: ConnectedSocket) {
    (descriptor, self.socket, step) = (socket.descriptor, socket, .max)
  }

  /// Bytes that the peer has been sent so far.
  public var bytesMoved: UInt64 { traffic.bytes.load(ordering: .relaxed) }

  /// Ends the connection, so that a write that waits for the peer fails. Only what owns its descriptor can; returns
  /// whether it did.
  public func hangUp() -> Bool {
    socket?.shutDown()
    return socket != nil
  }

  /// Writes all of `bytes`, for as long as the peer takes. `EPIPE` if it is gone.
  public func write(_ bytes: [UInt8], count: Int) throws(Errno) {
    var done = 0
    while done < count {
      do {
        let written = try retrying {
          unsafe bytes.withUnsafeBytes { buffer in
            unsafe Glibc.write(
              descriptor, buffer.baseAddress.map { unsafe $0 + done }, min(count - done, step))
          }
        }
        done += written
        traffic.bytes.add(UInt64(written), ordering: .relaxed)
      } catch .wouldBlock {
        var waiting = pollfd(fd: descriptor, events: Int16(POLLOUT), revents: 0)
        _ = try retrying { unsafe poll(&waiting, 1, -1) }
      }
    }
  }

  /// Writes all of `bytes`, for as long as the peer takes and nothing else is wanted: `EINTR` if `isInterrupted` is true
  /// when a signal has come in between (see `ThreadWaker`), `EPIPE` if the peer is gone.
  public func write(_ bytes: [UInt8], unless isInterrupted: () -> Bool) throws(Errno) {
    var done = 0
    while done < bytes.count {
      let written = unsafe bytes.withUnsafeBytes { buffer in
        unsafe Glibc.write(
          descriptor, buffer.baseAddress.map { unsafe $0 + done }, min(bytes.count - done, step))
      }
      if written >= 0 {
        done += written
        traffic.bytes.add(UInt64(written), ordering: .relaxed)
      } else {
        switch Errno(rawValue: errno) {
        case .wouldBlock:
          var waiting = pollfd(fd: descriptor, events: Int16(POLLOUT), revents: 0)
          _ = unsafe poll(&waiting, 1, -1)
        case .interrupted: break
        case let failure: throw failure
        }
      }
      if done < bytes.count, isInterrupted() { throw .interrupted }
    }
  }

  /// Sends some of a file's bytes, from `offset` on and at most `count`, without reading them into this process; returns
  /// how many, 0 at the end of the file, and nil where the kernel cannot. Whatever the peer has not read yet follows the
  /// file: it must not be written to any more. `EPIPE` if the peer is gone.
  public func send(_ file: OpenFile, at offset: Int, count: Int) throws(Errno) -> Int? {
    while true {
      do {
        guard let sent = try file.send(at: offset, count: min(count, step, 1 << 20), to: descriptor) else {
          return nil
        }
        traffic.bytes.add(UInt64(sent), ordering: .relaxed)
        return sent
      } catch .wouldBlock {
        var waiting = pollfd(fd: descriptor, events: Int16(POLLOUT), revents: 0)
        _ = try retrying { unsafe poll(&waiting, 1, -1) }
      }
    }
  }

  /// Whether nobody can read what is written any more.
  public var isHungUp: Bool { hungUp(descriptor) }
}

private func hungUp(_ descriptor: Int32) -> Bool {
  var state = pollfd(fd: descriptor, events: 0, revents: 0)
  guard unsafe poll(&state, 1, 0) == 1 else { return false }
  return state.revents & Int16(POLLHUP | POLLERR | POLLNVAL) != 0
}

/// Gets a thread out of a system call that waits: for output, say, that nobody reads.
///
/// The call returns early, or fails with `EINTR`; who made it decides whether to go on. One that begins just after the
/// waking waits all the same, so wake until the thread is done.
public struct ThreadWaker: Sendable {
  private let thread: pthread_t

  /// Wakes the calling thread, for as long as it lives.
  public init() {
    borg_prepare_waking()
    thread = pthread_self()
  }

  /// From another thread.
  public func wake() { borg_wake_thread(thread) }
}

/// Enlarges a pipe to 1 MiB: moving large objects is then bound by the disk, not by switching between two
/// processes for each 64 KiB (3.5 to 8 times faster). Anything that is no pipe is left alone.
public func enlargePipe(_ descriptor: Int32) {
  _ = borg_set_pipe_size(descriptor, 1 << 20)
}

/// The signals that end a server, taken as events instead of interruptions.
public struct EndSignals: Sendable {
  private let descriptor: Int32

  /// Blocks SIGTERM and, unless they were ignored, SIGHUP and SIGINT in this thread and those it will start, and
  /// ignores SIGPIPE. To be called before any other thread runs.
  public init() throws(Errno) {
    descriptor = try retrying { borg_signal_descriptor() }
  }

  /// Waits for one of the signals; nil after the time is over. The signals are the process's, and one wait
  /// at a time is all that there should be.
  public func wait(milliseconds: Int32) -> Int32? {
    var waiting = pollfd(fd: descriptor, events: Int16(POLLIN), revents: 0)
    guard unsafe poll(&waiting, 1, milliseconds) == 1 else { return nil }
    let number = borg_read_signal(descriptor)
    return number > 0 ? number : nil
  }
}

/// Opens `/dev/null` in the place of standard descriptors that are closed, so that no file gets their numbers and with
/// them what is meant for a log or a client. To be called before anything is opened.
public func reserveStandardDescriptors() {
  for descriptor in STDIN_FILENO...STDERR_FILENO where fcntl(descriptor, F_GETFD) == -1 {
    // The lowest free number is this one.
    _ = unsafe open("/dev/null", O_RDWR)
  }
}

/// Sets the process's file mode creation mask.
public func setFileModeCreationMask(_ mask: UInt32) {
  _ = umask(mode_t(mask & 0o777))
}

/// Lets the process open as many files as it may, and returns how many: a pipelining client has one open for each large
/// answer that waits.
@discardableResult
public func raiseOpenFileLimit() -> UInt64 {
  var limit = rlimit()
  let resource = __rlimit_resource_t(RLIMIT_NOFILE.rawValue)
  guard unsafe getrlimit(resource, &limit) == 0 else { return 0 }
  limit.rlim_cur = limit.rlim_max
  _ = unsafe setrlimit(resource, &limit)
  return UInt64(limit.rlim_max)
}

/// Writes a line to standard error, which ssh clients log; failures have nowhere to be told.
///
/// A reader that has stopped reading loses lines instead of holding up whoever has something to say: a server of
/// sockets would stand still with its log.
///
/// What clients have said may be in it: control characters become question marks, so that nobody forges a line, and it is
/// cut to what a pipe takes at once, 4096 bytes.
public func printToStandardError(_ line: String) {
  var state = pollfd(fd: STDERR_FILENO, events: Int16(POLLOUT), revents: 0)
  guard unsafe poll(&state, 1, 0) == 1 else { return }
  var text = ""
  for scalar in line.unicodeScalars {
    let shown: Unicode.Scalar = scalar.properties.generalCategory == .control ? "?" : scalar
    guard text.utf8.count + shown.utf8.count < Int(PIPE_BUF) else { break }
    text.unicodeScalars.append(shown)
  }
  let bytes = Array((text + "\n").utf8)
  // One call, for which there is room, so that lines of several threads do not mix.
  _ = unsafe bytes.withUnsafeBytes { unsafe Glibc.write(STDERR_FILENO, $0.baseAddress, $0.count) }
}
