public import BorgFormat

/// How to serve: what the command line, the environment and the client's original command come to.
///
/// Paths are bytes, unresolved, as they were given. Source of the defaults: borg 2.0.0b18
/// `archiver/_common.py`.
public struct ServeOptions: Hashable, Sendable {
  /// Least severe level whose records are generated.
  public enum LogLevel: String, CaseIterable, Sendable {
    case critical, error, warning, info, debug
  }

  /// Where a unix-socket server listens.
  public enum Socket: Hashable, Sendable {
    /// `borg.sock` in the runtime directory, which the caller determines.
    case defaultPath
    /// Never empty.
    case path([UInt8])
  }

  public var logLevel = LogLevel.warning
  /// Full names of loggers that are at DEBUG whatever `logLevel` says; a word without a dot became
  /// `borg.debug.WORD`.
  public var debugTopics: [String] = []
  /// Seconds; default 10, or `BORG_LOCK_WAIT`. Without effect on repository locks, for which `open` carries
  /// its own. Negative numbers pass, as in the original.
  public var lockWait = 10
  /// Mode mask for the process, 0...0o777.
  public var umask: UInt32 = 0o077
  /// Nil: one session on standard input and output.
  public var socket: Socket?
  /// A repository has to be one of these or below one; empty: no such restriction. An empty path is the
  /// working directory.
  public var restrictToPaths: [[UInt8]] = []
  /// A repository has to be one of these; empty: no such restriction. Both kinds given: both have to admit
  /// it.
  public var restrictToRepositories: [[UInt8]] = []
  /// Nil: not given, so that `Permissions.effective(option:environment:)` goes on to the environment.
  public var permissions: Permissions?
  /// Borg 1.x: repositories only grow. Borg 2 has no such option: see `refusalOfBorg2`.
  public var appendOnly = false
  /// Borg 1.x: bytes, 0 or at least 10,000,000; 0 lifts the repository's own quota, nil leaves it.
  /// Borg 2 has no such option: as above.
  public var storageQuota: UInt64?
  /// b22 and later: HTTP on standard input and output instead of RPC.
  public var rest = false
  /// With `rest`: URL of the repository, such as `FILE:/srv/repo`. Names what is asked for, grants nothing.
  public var backend: [UInt8]?
  /// With `socket`: clients at a time, from 1; nil: as many as the server thinks good. No option of Borg's.
  public var maxConnections: Int?
  /// Seconds after which a connection on which nothing happens is ended; 0: never. No option of Borg's.
  public var idleTimeout = 0
  public var showVersion = false
  public var showRC = false
  /// Borg 1.x until it has negotiated; without effect in Borg 2.
  public var logJSON = false
  /// One line each, for the log: options that were accepted and do nothing, and what the client asked for
  /// in vain.
  public var warnings: [String] = []

  public init() {}
}
