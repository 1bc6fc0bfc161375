import BorgFormat
import Disk
import Glibc
import Synchronization

/// Lines for the administrator, as text or JSON, on standard error or wherever tests want them.
///
/// A thread of its own writes them: neither an event loop nor a thread that serves waits for whoever reads the log. When
/// he does not keep up, lines are lost and counted. A class because many threads have it.
public final class Log: Sendable {
  public enum Level: String, CaseIterable, Comparable, Sendable {
    case debug, info, warning, error

    public static func < (left: Level, right: Level) -> Bool {
      (allCases.firstIndex(of: left) ?? 0) < (allCases.firstIndex(of: right) ?? 0)
    }
  }

  /// What a field of a line is.
  public enum Value: Sendable {
    case text(String)
    case number(Int)
    /// Milliseconds, with three digits behind the point.
    case milliseconds(Double)
  }

  private struct State {
    var lines: [String] = []
    var lost = 0
    var isEnding = false
  }

  private let state = Monitor(State())
  private let json: Atomic<Bool>
  private let level: Mutex<Level>
  private let output: @Sendable (String) -> Void
  private let thread = Mutex<WorkerThread?>(nil)
  /// Lines that may wait to be written.
  private static let limit = 10_000

  /// `output` gets one or more whole lines, without the last line's end, on the log's own thread.
  public init(
    _ options: Configuration.LogOptions = .init(), output: @escaping @Sendable (String) -> Void
  ) {
    json = Atomic(options.json)
    level = Mutex(options.level)
    self.output = output
    thread.withLock { $0 = WorkerThread { [state] in Self.write(state, output) } }
  }

  /// From now on as these options say.
  public func change(to options: Configuration.LogOptions) {
    json.store(options.json, ordering: .relaxed)
    level.withLock { $0 = options.level }
  }

  /// Writes what waits and ends the thread.
  public func end() {
    state.update { $0.isEnding = true }
    thread.withLock { thread in
      thread?.join()
      thread = nil
    }
  }

  public func write(
    _ level: Level, _ message: String, _ fields: KeyValuePairs<String, Value?> = [:]
  ) {
    guard level >= self.level.withLock({ $0 }) else { return }
    let line =
      json.load(ordering: .relaxed) ? Self.json(level, message, fields) : Self.text(level, message, fields)
    let isFirst = state.withLock { state in
      guard state.lines.count < Self.limit else {
        state.lost += 1
        return false
      }
      state.lines.append(line)
      return state.lines.count == 1
    }
    // Whoever writes takes all that there is: only the first line has to wake it.
    if isFirst { state.wake(0) }
  }

  private static func write(_ state: Monitor<State>, _ output: (String) -> Void) {
    var isEnding = false
    while !isEnding {
      let (lines, lost) = state.wait { state -> ([String], Int)? in
        guard !state.lines.isEmpty || state.isEnding else { return nil }
        isEnding = state.isEnding
        defer { (state.lines, state.lost) = ([], 0) }
        return (state.lines, state.lost)
      }
      if !lines.isEmpty { output(lines.joined(separator: "\n")) }
      if lost > 0 { output("borg-serve: \(lost) lines of the log were lost, as nobody read them") }
      // A busy server's lines are written many at a time.
      if !isEnding { Host.pause(.milliseconds(2)) }
    }
  }

  private static func text(_ level: Level, _ message: String, _ fields: KeyValuePairs<String, Value?>)
    -> String
  {
    var line = "\(Clock.date()) \(level.rawValue) \(message.visible)"
    for (name, value) in fields {
      switch value {
      case nil: break
      case .text(let text):
        let isPlain =
          !text.isEmpty && text.utf8.allSatisfy { $0 > 0x20 && $0 < 0x7f && $0 != UInt8(ascii: "\"") }
        line += isPlain ? " \(name)=\(text)" : " \(name)=\(quoted(text))"
      case .number(let number): line += " \(name)=\(number)"
      case .milliseconds(let time): line += " \(name)=\(decimal(time))"
      }
    }
    return line
  }

  private static func json(_ level: Level, _ message: String, _ fields: KeyValuePairs<String, Value?>)
    -> String
  {
    var line =
      "{\"time\": \"\(Clock.date())\", \"level\": \"\(level.rawValue)\", \"message\": \(quoted(message))"
    for (name, value) in fields {
      switch value {
      case nil: break
      case .text(let text): line += ", \(quoted(name)): \(quoted(text))"
      case .number(let number): line += ", \(quoted(name)): \(number)"
      case .milliseconds(let time): line += ", \(quoted(name)): \(decimal(time))"
      }
    }
    return line + "}"
  }

  private static func quoted(_ text: String) -> String {
    var bytes: [UInt8] = []
    JSON.append(quoted: text, to: &bytes)
    return String(decoding: bytes, as: UTF8.self)
  }

  static func decimal(_ value: Double) -> String {
    let thousandths = Int((max(0, value) * 1000).rounded())
    let fraction = String(thousandths % 1000)
    return "\(thousandths / 1000).\(String(repeating: "0", count: 3 - fraction.count))\(fraction)"
  }
}

extension String {
  /// Control characters become question marks, so that nobody forges a line of a log.
  var visible: String {
    guard utf8.contains(where: { $0 < 0x20 || $0 == 0x7f || $0 >= 0x80 }) else { return self }
    var text = ""
    for scalar in unicodeScalars {
      text.unicodeScalars.append(scalar.properties.generalCategory == .control ? "?" : scalar)
    }
    return text
  }
}

/// The wall clock in the forms that logs and answers want.
enum Clock {
  /// Since 1970 UTC.
  static func seconds() -> Int64 { Host.now() / 1000 }

  /// `2026-11-23T14:38:09.123Z`.
  static func date() -> String {
    let now = Host.now()
    var seconds = time_t(now / 1000)
    var parts = unsafe tm()
    unsafe _ = gmtime_r(&seconds, &parts)
    let date = unsafe "\(parts.tm_year + 1900)-\(two(parts.tm_mon + 1))-\(two(parts.tm_mday))"
    let milliseconds = String(Int(now % 1000))
    let fraction = String(repeating: "0", count: 3 - milliseconds.count) + milliseconds
    return unsafe "\(date)T\(two(parts.tm_hour)):\(two(parts.tm_min)):\(two(parts.tm_sec)).\(fraction)Z"
  }

  /// `Mon, 23 Nov 2026 14:38:09 GMT`, as HTTP's `Date` wants it.
  static func http(_ seconds: Int) -> String {
    var seconds = time_t(seconds)
    var parts = unsafe tm()
    unsafe _ = gmtime_r(&seconds, &parts)
    let days = ["Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"]
    let months = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"]
    let day =
      unsafe "\(days[Int(parts.tm_wday) % 7]), \(two(parts.tm_mday)) \(months[Int(parts.tm_mon) % 12])"
    return
      unsafe "\(day) \(parts.tm_year + 1900) \(two(parts.tm_hour)):\(two(parts.tm_min)):\(two(parts.tm_sec)) GMT"
  }

  private static func two(_ number: Int32) -> String { number < 10 ? "0\(number)" : "\(number)" }
}
