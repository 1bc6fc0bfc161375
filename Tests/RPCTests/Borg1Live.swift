import BorgFormat
import Disk
import Glibc
import ObjectRepository
import RPC
import Session
import SystemPackage
import Testing

/// A client that stays: a connection that a test can watch, interrupt and leave in the middle of a request.
final class Borg1Live {
  let connection: Connection
  private let (up, down, log): (Channel, Channel, Channel)
  private let served: Background<ConnectionEnd>
  private let (answers, lines): (ByteInput, ByteInput)
  private var (arrived, said): ([UInt8], [UInt8]) = ([], [])

  /// All of them are sessions of one process.
  private static let configuration = RPCConnection.Configuration(owner: LockOwner(hostID: "tests@1"))

  init(configure: (inout RPCConnection.Configuration) -> Void = { _ in }) throws {
    signal(SIGPIPE, SIG_IGN)
    (up, down, log) = (try Channel(), try Channel(), try Channel())
    var configuration = Self.configuration
    configuration.borg1Log = .client(descriptor: log.writer)
    configuration.filter.level = .debug
    configure(&configuration)
    (answers, lines) = (try ByteInput(down.reader), try ByteInput(log.reader))
    let connection = Connection(
      input: try ByteInput(up.reader), output: ByteOutput(down.writer), configuration: configuration)
    self.connection = connection
    served = try Background { connection.run(patience: Client.patience) }
    send(Borg1Client.hello)
    _ = try answer()
  }

  func send(_ bytes: [UInt8]) { try? ByteOutput(up.writer).write(bytes, count: bytes.count) }

  /// The next answer. Blocks until it comes.
  func answer() throws -> Value {
    while true {
      var offset = 0
      if let value = try? Value(arrived, at: &offset) {
        arrived.removeFirst(offset)
        return value
      }
      guard case .bytes = try answers.read(into: &arrived, room: 1 << 16) else { throw Errno.brokenPipe }
    }
  }

  func call(_ request: [UInt8]) throws -> Value {
    send(request)
    return try answer()
  }

  /// Waits until the log has said something.
  func untilLog(_ text: String) throws {
    while !String(decoding: said, as: UTF8.self).contains(text) {
      guard case .bytes = try lines.read(into: &said, room: 1 << 16) else { throw Errno.brokenPipe }
    }
  }

  func hangUp() { up.closeWriter() }

  /// How the connection ended; nil if it does not in time.
  func end(within timeout: Duration = .seconds(5)) -> ConnectionEnd? { served.value(within: timeout) }

  deinit {
    up.closeWriter()
    down.closeReader()
    log.closeReader()
    if served.value() == nil { Issue.record("the connection did not end after its client was gone") }
  }
}
