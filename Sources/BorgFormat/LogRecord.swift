/// Levels of log records, with the numbers that Borg's clients know.
public enum LogLevel: Int, Comparable, CaseIterable, Sendable {
  case debug = 10
  case info = 20
  case warning = 30
  case error = 40
  case critical = 50

  public static func < (left: LogLevel, right: LogLevel) -> Bool { left.rawValue < right.rawValue }
}

/// Loggers that records are attributed to; clients and users filter by these names.
public enum Logger: String, Sendable {
  /// What Borg's own repository code says, in its words, because users and tests look for them.
  case repository = "borg.repository"
  /// What Borg's own locking code says, in its words.
  case locking = "borg.locking"
  /// What Borg's own code for the digests of index and hints says, in its words.
  case fileIntegrity = "borg.crypto.file_integrity"
  /// What Borg's own command says, in its words.
  case archiver = "borg.archiver"
  /// What Borg 1 says of errors that it answers in tuples.
  case root
  /// The server about itself.
  case serve = "borg.serve"
  case progress = "borg.output.progress"
  case showVersion = "borg.output.show-version"
}

/// How far a long operation has come, for a client started with `--progress`.
public struct Progress: Equatable, Sendable {
  /// Tells the operations of one session apart.
  public let operation: Int
  /// Which kind of operation it is, for programs.
  public let messageID: String
  /// For people; empty at the end.
  public let message: String
  public let current: Int
  public let total: Int
  public let isFinished: Bool

  public init(
    operation: Int, messageID: String, message: String, current: Int, total: Int, isFinished: Bool
  ) {
    self.operation = operation
    self.messageID = messageID
    self.message = message
    self.current = current
    self.total = total
    self.isFinished = isFinished
  }
}

/// Where log and progress records go while an operation runs.
public protocol Reporter: Sendable {
  /// The message is an autoclosure since most debug records are never wanted.
  func log(_ level: LogLevel, _ logger: Logger, _ message: @autoclosure () -> String)
  func progress(_ progress: Progress)
}
