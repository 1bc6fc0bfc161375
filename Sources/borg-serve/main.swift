import BorgFormat
import Disk
import Glibc
import ObjectRepository
import RPC
import ServeCommand
import Session

// The wiring: what the command line says, over the pieces that do it.

// Threads are still waiting for signals: nothing of theirs is to be torn down.
_exit(Process.run())

enum Process {
  static func run() -> Int32 {
    let modern = ExitCode.isModern(environment: Host.environment("BORG_EXIT_CODES"))
    let arguments = Host.arguments()
    switch Invocation.parse(arguments: arguments, environment: Host.environment) {
    case .printed(let text):
      let bytes = Array(text.utf8)
      let isWritten = (try? ByteOutput(STDOUT_FILENO).write(bytes, count: bytes.count)) != nil
      return (isWritten ? ExitCode.success : .failure).status(modern: modern)
    case .usageError(let text):
      printToStandardError(text.hasSuffix("\n") ? String(text.dropLast()) : text)
      return ExitCode.failure.status(modern: modern)
    case .serve(let options):
      return serve(options).status(modern: modern)
    }
  }

  private static func serve(_ options: ServeOptions) -> ExitCode {
    guard !options.rest else {
      printToStandardError("borg-serve: --rest is not supported by this version yet.")
      return .failure
    }
    guard options.socket != nil || isatty(STDIN_FILENO) == 0 else {
      printToStandardError("borg-serve: standard input is a terminal; borg clients start this over ssh.")
      return .failure
    }
    setFileModeCreationMask(options.umask)
    raiseOpenFileLimit()
    do {
      let signals = try EndSignals()
      if let socket = options.socket {
        let service = SocketService(options: options, socket: socket, configuration: configuration(options))
        return service.run(until: signals)
      }
      enlargePipe(STDIN_FILENO)
      enlargePipe(STDOUT_FILENO)
      let connection = RPCConnection(
        input: try ByteInput(STDIN_FILENO), output: ByteOutput(STDOUT_FILENO),
        configuration: configuration(options))
      connection.greet(options)
      return serve(connection, until: signals)
    } catch {
      printToStandardError("borg-serve: cannot start: \(error)")
      return .failure
    }
  }

  /// Runs the connection on this thread while another one waits for signals and keeps time.
  private static func serve(_ connection: RPCConnection, until signals: EndSignals) -> ExitCode {
    let signal = Monitor<Int32?>(nil)
    let watch = WorkerThread {
      while true {
        if let number = signals.wait(milliseconds: 500) {
          signal.update { $0 = number }
          connection.interrupt()
        }
        connection.tick()
      }
    }
    guard watch != nil else {
      printToStandardError("borg-serve: cannot start: no more threads")
      return .failure
    }
    let end = connection.run()
    if let number = signal.withLock({ $0 }) { return .signal(number) }
    switch end {
    case .closed, .idle: return .success
    case .broken, .interrupted: return .failure
    case .fault(.notAMap):
      printToStandardError("borg-serve: got unexpected RPC data format from client.")
      return .unexpectedMessage
    case .fault(.malformed(let reason)):
      printToStandardError("borg-serve: the client's request cannot be read: \(reason)")
      return .failure
    }
  }

  private static func configuration(_ options: ServeOptions) -> RPCConnection.Configuration {
    // An empty value counts as none, as with the original.
    let hostID = Host.environment("BORG_HOST_ID").flatMap {
      $0.isEmpty ? nil : LockRecord.hostID(decoding: $0)
    }
    var configuration = RPCConnection.Configuration(owner: LockOwner(hostID: hostID))
    configuration.session.restrictToPaths = options.restrictToPaths
    configuration.session.restrictToRepositories = options.restrictToRepositories
    configuration.session.dataLevels = Host.environment("BORG_STORE_DATA_LEVELS")
      .map { String(decoding: $0, as: UTF8.self) }
    configuration.session.refusal =
      options.refusal(permissions: Host.environment("BORG_REPO_PERMISSIONS")).map { .unsupported($0) }
    configuration.filter = LogFilter(level: level(options.logLevel), debugTopics: options.debugTopics)
    configuration.idleTimeout = options.idleTimeout > 0 ? .seconds(options.idleTimeout) : nil
    let showsSystem = Host.environment("BORG_SHOW_SYSINFO").map { $0 != Array("no".utf8) } ?? true
    configuration.sysinfo = showsSystem ? "\(Version.line)\n" : ""
    return configuration
  }

  private static func level(_ level: ServeOptions.LogLevel) -> LogLevel {
    switch level {
    case .critical: .critical
    case .error: .error
    case .warning: .warning
    case .info: .info
    case .debug: .debug
    }
  }
}

extension RPCConnection {
  /// What the client is told before anything else.
  func greet(_ options: ServeOptions) {
    for warning in options.warnings { log(.warning, .serve, warning) }
    if options.showVersion { log(.info, .showVersion, Version.line) }
  }
}
