import BorgFormat
import Disk
import Glibc
import ObjectRepository
import RPC
import Session
import Testing

/// What came of a connection to which everything was sent, and which was closed then.
struct Borg1Exchange {
  var answers: [Value]
  var bytes: [UInt8]
  var log: [String]
  var end: ConnectionEnd?
  var dialect: Dialect?
}

enum Borg1Client {
  /// The first message of clients from 1.1 on.
  static let hello = Value.array([
    1, 1, "negotiate", [.named(["client_version": [1, 4, 5, -1]])],
  ]).encoded

  /// The answer to it, byte for byte.
  static let welcome: [UInt8] =
    [0x94, 0x01, 0x01, 0xc0, 0x81, 0xae] + Array("server_version".utf8) + [0x94, 0x01, 0x04, 0x05, 0xff]

  static func request(_ id: Value, _ method: String, _ arguments: KeyValuePairs<String, Value> = [:])
    -> [UInt8]
  {
    Value.named(["i": id, "m": .text(method), "a": .named(arguments)]).encoded
  }

  /// Sends the pieces, each when the one before it has been read, and hangs up.
  static func exchange(
    _ pieces: [[UInt8]], configure: (inout RPCConnection.Configuration) -> Void = { _ in }
  ) throws -> Borg1Exchange {
    signal(SIGPIPE, SIG_IGN)
    let (up, down, log) = (try Channel(), try Channel(), try Channel())
    var configuration = RPCConnection.Configuration(owner: LockOwner(hostID: "tests@1"))
    configuration.borg1Log = .client(descriptor: log.writer)
    configure(&configuration)
    let input = try ByteInput(up.reader)
    let connection = Connection(
      input: input, output: ByteOutput(down.writer), configuration: configuration)
    let answers = try Background { Self.drained(down.reader) }
    let lines = try Background { Self.drained(log.reader) }
    let served = try Background {
      let end = connection.run(patience: Client.patience)
      connection.tellEnd(end, signal: nil)
      down.closeWriter()
      log.closeWriter()
      return end
    }
    var sent = UInt64(0)
    for piece in pieces {
      try? ByteOutput(up.writer).write(piece, count: piece.count)
      sent += UInt64(piece.count)
      while pieces.count > 1, input.bytesMoved < sent, served.value(within: .zero) == nil {
        Host.pause(.microseconds(50))
      }
    }
    up.closeWriter()
    let end = served.value()
    // Whoever still writes to a reader that is gone ends by it.
    up.closeReader()
    let bytes = answers.value() ?? []
    let text = String(decoding: lines.value() ?? [], as: UTF8.self)
    return Borg1Exchange(
      answers: try values(bytes), bytes: bytes, log: text.split(separator: "\n").map(String.init), end: end,
      dialect: connection.dialect)
  }

  private static func values(_ bytes: [UInt8]) throws -> [Value] {
    var (values, offset) = ([] as [Value], 0)
    while offset < bytes.count { values.append(try Value(bytes, at: &offset)) }
    return values
  }

  private static func drained(_ descriptor: Int32) -> [UInt8] {
    var bytes: [UInt8] = []
    guard let input = try? ByteInput(descriptor) else { return [] }
    while case .bytes? = try? input.read(into: &bytes, room: 1 << 16) {}
    return bytes
  }
}
