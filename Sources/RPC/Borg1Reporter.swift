import BorgFormat
import Disk
import Synchronization

/// Where the log of a connection of Borg 1.x goes.
public enum Borg1Log: Sendable {
  /// A descriptor, standard error, from where ssh brings it to the client, in the client's format.
  case client(descriptor: Int32)
  /// Lines for the administrator: the client has no second stream.
  case administrator(@Sendable (String) -> Void)
}

/// Turns records into the lines that stock clients render as their own: on standard error, beside the protocol.
///
/// Nothing goes out before `begin`, so that nothing is said to a peer that speaks another dialect: until then records
/// are kept, a few of them. A class because the session and the connection share it. Source: borg 1.4.5
/// `src/borg/logger.py`, `remote.py` `handle_remote_line`.
final class Borg1Reporter: Reporter {
  private let filter: LogFilter
  private let way: Way
  private let state: Mutex<State>

  private enum Way {
    case client(LineOutput)
    case administrator(@Sendable (String) -> Void)
  }

  private struct State {
    var hasBegun = false
    var isJSON: Bool
    var early: [Record] = []
  }

  private struct Record {
    let level: LogLevel
    let logger: Logger
    let message: String
    let messageID: String?
  }

  private static let mostEarly = 100

  init(filter: LogFilter, log: Borg1Log, isJSON: Bool) {
    self.filter = filter
    way =
      switch log {
      case .client(let descriptor): .client(LineOutput(descriptor))
      case .administrator(let tell): .administrator(tell)
      }
    state = Mutex(State(isJSON: isJSON))
  }

  /// Lets records out, those that waited first; nothing happens if they are let out already.
  func begin() {
    let early = state.withLock { state in
      defer { (state.hasBegun, state.early) = (true, []) }
      return state.early
    }
    for record in early { send(record) }
  }

  /// From now on the client waits for this process to end, and reads nothing.
  func stopWaiting() {
    if case .client(let output) = way { output.stopWaiting() }
  }

  /// From now on the client reads JSON.
  func useJSON() { state.withLock { $0.isJSON = true } }

  func log(_ level: LogLevel, _ logger: Logger, _ message: @autoclosure () -> String) {
    log(level, logger, message(), messageID: nil)
  }

  /// A record with a `msgid`, by which programs know it.
  func log(_ level: LogLevel, _ logger: Logger, _ message: @autoclosure () -> String, messageID: String?) {
    guard filter.admits(level, logger) else { return }
    let record = Record(
      level: level, logger: logger, message: Self.bounded(message()), messageID: messageID)
    let isKept = state.withLock { state in
      guard !state.hasBegun else { return false }
      if state.early.count < Self.mostEarly { state.early.append(record) }
      return true
    }
    if !isKept { send(record) }
  }

  /// A message of which a line is made that a pipe takes at once, however much of it has to be escaped: clients cannot
  /// read half a line.
  private static func bounded(_ message: String) -> String {
    guard message.utf8.count > mostBytes else { return message }
    return String(decoding: message.utf8.prefix(mostBytes), as: UTF8.self) + " ..."
  }

  /// Each may become six: 4096 with what is around them.
  private static let mostBytes = 600

  /// A line that clients print as it is.
  func line(_ text: String) {
    begin()
    switch way {
    case .client(let output): output.write(Self.oneLine(text))
    case .administrator(let tell): tell(text)
    }
  }

  func progress(_ progress: Progress) {
    guard case .client(let output) = way, state.withLock({ $0.hasBegun && $0.isJSON }) else { return }
    output.write(Self.json(progress))
  }

  private func send(_ record: Record) {
    switch way {
    case .administrator(let tell): tell("\(record.level.name) \(record.logger.rawValue) \(record.message)")
    case .client(let output):
      let isJSON = state.withLock { $0.isJSON }
      output.write(
        isJSON
          ? Self.json(record)
          : "$LOG \(record.level.name) \(record.logger.rawValue) Remote: \(Self.oneLine(record.message))")
    }
  }

  /// Clients end a line at either of these, and read what follows as another one.
  private static func oneLine(_ text: String) -> String {
    String(decoding: text.utf8.map { $0 == 0x0a || $0 == 0x0d ? 0x20 : $0 }, as: UTF8.self)
  }

  // MARK: JSON

  private static func json(_ record: Record) -> String {
    var text: [UInt8] = []
    field("type", quoted("log_message"), &text)
    field("time", time(), &text)
    field("message", quoted(record.message), &text)
    field("levelname", quoted(record.level.name), &text)
    field("name", quoted(record.logger.rawValue), &text)
    if let messageID = record.messageID { field("msgid", quoted(messageID), &text) }
    return String(decoding: text, as: UTF8.self) + "}"
  }

  private static func json(_ progress: Progress) -> String {
    var text: [UInt8] = []
    if !progress.isFinished {
      field("message", quoted(progress.message), &text)
      field("current", "\(progress.current)", &text)
      field("total", "\(progress.total)", &text)
      field("info", "null", &text)
    }
    field("operation", "\(progress.operation)", &text)
    field("msgid", quoted(progress.messageID), &text)
    field("type", quoted("progress_percent"), &text)
    field("finished", "\(progress.isFinished)", &text)
    field("time", time(), &text)
    return String(decoding: text, as: UTF8.self) + "}"
  }

  private static func field(_ name: String, _ value: String, _ text: inout [UInt8]) {
    text += Array((text.isEmpty ? "{" : ", ").utf8)
    JSON.append(quoted: name, to: &text)
    text += Array(": \(value)".utf8)
  }

  private static func quoted(_ value: String) -> String {
    var bytes: [UInt8] = []
    JSON.append(quoted: value, to: &bytes)
    return String(decoding: bytes, as: UTF8.self)
  }

  private static func time() -> String {
    let now = Host.now()
    return "\(now / 1000).\(String(now % 1000 + 1000).dropFirst())"
  }
}

extension LogLevel {
  /// As Python writes it.
  fileprivate var name: String {
    switch self {
    case .debug: "DEBUG"
    case .info: "INFO"
    case .warning: "WARNING"
    case .error: "ERROR"
    case .critical: "CRITICAL"
    }
  }
}
