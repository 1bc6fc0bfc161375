public import BorgFormat
import Disk
import Synchronization

/// Which records a client is sent: the original filters at the source, with the server's own level.
public struct LogFilter: Sendable {
  public var level: LogLevel
  /// Loggers, by name, whose debug records are wanted whatever the level.
  public var debugTopics: [String]

  public init(level: LogLevel = .warning, debugTopics: [String] = []) {
    (self.level, self.debugTopics) = (level, debugTopics)
  }

  func admits(_ level: LogLevel, _ logger: Logger) -> Bool {
    switch logger {
    case .progress, .showVersion: true
    case .repository, .serve, .locking, .fileIntegrity, .archiver, .root:
      level >= self.level
        || debugTopics.contains { logger.rawValue == $0 || logger.rawValue.hasPrefix($0 + ".") }
    }
  }
}

/// Turns records into the messages that stock clients render as their own.
///
/// Nothing is sent before the peer is known to speak this dialect: until then records are kept, a few of
/// them. A class because the session and the connection share it.
final class RPCReporter: Reporter {
  private let filter: LogFilter
  private let state = Mutex(State())

  private struct State {
    var early: [[UInt8]] = []
    var post: (@Sendable ([UInt8]) -> Void)?
  }

  private static let mostEarly = 100

  init(filter: LogFilter) {
    self.filter = filter
  }

  /// Lets records out through `post`, those that waited first; nothing happens if they are let out already.
  func begin(_ post: @escaping @Sendable ([UInt8]) -> Void) {
    let early = state.withLock { state in
      guard state.post == nil else { return [] as [[UInt8]] }
      state.post = post
      defer { state.early = [] }
      return state.early
    }
    for message in early { post(message) }
  }

  /// Lets go of the way out, which leads back here: nothing that has ended would be freed otherwise.
  func end() {
    state.withLock { $0 = State() }
  }

  func log(_ level: LogLevel, _ logger: Logger, _ message: @autoclosure () -> String) {
    guard filter.admits(level, logger) else { return }
    send(Self.encode(level, logger, message()))
  }

  func progress(_ progress: Progress) {
    send(Self.encode(.info, .progress, Self.json(progress)))
  }

  private func send(_ message: [UInt8]) {
    let post = state.withLock { state in
      if state.post == nil, state.early.count < Self.mostEarly { state.early.append(message) }
      return state.post
    }
    post?(message)
  }

  /// The message `{"l": record}` with all keys that a Python log record is made from.
  ///
  /// Source: borg 2.0.0b18 `src/borg/logger.py`, `BorgQueueHandler`.
  static func encode(_ level: LogLevel, _ logger: Logger, _ message: String) -> [UInt8] {
    var writer = MessagePackWriter(reserving: 160 + message.utf8.count)
    writer.map(count: 1)
    writer.string("l")
    writer.map(count: 9)
    writer.string("name")
    writer.string(logger.rawValue)
    writer.string("level")
    writer.int(Int64(level.rawValue))
    writer.string("pathname")
    writer.string("")
    writer.string("lineno")
    writer.int(0)
    writer.string("msg")
    writer.string(message)
    writer.string("args")
    writer.array(count: 0)
    for key in ["exc_info", "func", "sinfo"] {
      writer.string(key)
      writer.nil()
    }
    return writer.bytes
  }

  private static func json(_ progress: Progress) -> String {
    var text: [UInt8] = []
    func field(_ name: String, _ value: String) {
      text += Array((text.isEmpty ? "{" : ", ").utf8)
      JSON.append(quoted: name, to: &text)
      text += Array(": \(value)".utf8)
    }
    func quoted(_ value: String) -> String {
      var bytes: [UInt8] = []
      JSON.append(quoted: value, to: &bytes)
      return String(decoding: bytes, as: UTF8.self)
    }
    field("operation", "\(progress.operation)")
    field("msgid", quoted(progress.messageID))
    field("type", quoted("progress_percent"))
    field("finished", "\(progress.isFinished)")
    field("message", quoted(progress.message))
    if !progress.isFinished {
      field("current", "\(progress.current)")
      field("total", "\(progress.total)")
      field("info", "[]")
    }
    let now = Host.now()
    let fraction = String(now % 1000 + 1000).dropFirst()
    field("time", "\(now / 1000).\(fraction)")
    return String(decoding: text, as: UTF8.self) + "}"
  }
}
