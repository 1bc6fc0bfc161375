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
    reserveStandardDescriptors()
    let modern = ExitCode.isModern(environment: Host.environment("BORG_EXIT_CODES"))
    let arguments = Host.arguments()
    // Before anything else: the network server is another program, so that this one stays small.
    if NetworkProgram.isAskedFor(arguments) { return NetworkProgram.run(arguments) }
    switch Invocation.parse(arguments: arguments, environment: Host.environment) {
    case .printed(let text):
      let bytes = Array(text.utf8)
      let isWritten = (try? ByteOutput(STDOUT_FILENO).write(bytes, count: bytes.count)) != nil
      return (isWritten ? ExitCode.success : .failure).status(modern: modern)
    case .usageError(let text):
      printToStandardError(text.hasSuffix("\n") ? String(text.dropLast()) : text)
      return ExitCode.failure.status(modern: modern)
    case .authorize(let options):
      return authorize(options).status(modern: modern)
    case .serve(let options):
      let (code, dialect) = serve(options)
      return code.status(
        modern: ExitCode.isModern(
          environment: Host.environment("BORG_EXIT_CODES"), legacyByDefault: dialect == .borg1))
    }
  }

  private static func authorize(_ options: AuthorizeOptions) -> ExitCode {
    do {
      let text = try readWhole(options.keyFile, limit: AuthorizeOptions.keyLimit)
      let line = try options.line(publicKey: text, executable: Host.executable()) + [UInt8(ascii: "\n")]
      try ByteOutput(STDOUT_FILENO).write(line, count: line.count)
      return .success
    } catch let refusal as RefusedKey {
      printToStandardError("borg-serve: authorize: \(refusal.reason)")
    } catch {
      printToStandardError("borg-serve: authorize: \(error)")
    }
    return .failure
  }

  /// Serves to the end; the dialect is that of the one client, if there was one and it said anything.
  private static func serve(_ options: ServeOptions) -> (ExitCode, Dialect?) {
    guard options.socket != nil || isatty(STDIN_FILENO) == 0 else {
      printToStandardError("borg-serve: standard input is a terminal; borg clients start this over ssh.")
      return (.failure, nil)
    }
    setFileModeCreationMask(options.umask)
    raiseOpenFileLimit()
    do {
      let signals = try EndSignals()
      let granted = GrantedRoots(paths: options.restrictToPaths, repositories: options.restrictToRepositories)
      let configuration = configuration(options, granted)
      if options.rest {
        guard options.socket == nil else {
          printToStandardError("Error: --rest is served on standard input and output, not on a --socket.")
          return (.failure, nil)
        }
        return (
          RESTServer(options: options, configuration: configuration.session).run(until: signals), .borg2
        )
      }
      if let socket = options.socket {
        let service = SocketService(options: options, socket: socket, configuration: configuration)
        return (service.run(until: signals), nil)
      }
      enlargePipe(STDIN_FILENO)
      enlargePipe(STDOUT_FILENO)
      let confinement = try confine(to: granted)
      let connection = Connection(
        input: try ByteInput(STDIN_FILENO),
        output: options.idleTimeout > 0
          ? ByteOutput(STDOUT_FILENO, step: Limits.idleStep) : ByteOutput(STDOUT_FILENO),
        configuration: configuration)
      connection.greet(options, confinement)
      return (serve(connection, until: signals), connection.dialect)
    } catch {
      printToStandardError("borg-serve: cannot start: \(error)")
      return (.failure, nil)
    }
  }

  /// Runs the connection on this thread while another one waits for signals and keeps time.
  private static func serve(_ connection: Connection, until signals: EndSignals) -> ExitCode {
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
    let number = signal.withLock { $0 }
    connection.tellEnd(end, signal: number.flatMap(EndSignal.init(number:)))
    if let number { return .signal(number) }
    switch end {
    case .closed, .idle: return .success
    case .broken, .interrupted: return .failure
    case .fault(.notAMap) where connection.dialect == .borg1: return .unexpectedMessage
    case .fault(.malformed) where connection.dialect == .borg1: return .failure
    case .fault(.notAMap):
      printToStandardError("borg-serve: got unexpected RPC data format from client.")
      return .unexpectedMessage
    case .fault(.malformed(let reason)):
      printToStandardError("borg-serve: the client's request cannot be read: \(reason)")
      return .failure
    }
  }

  /// Has the kernel confine a restricted process; says what came of it. Files may be removed in `removable` too.
  static func confine(to granted: GrantedRoots, removable: [RepositoryPath] = []) throws -> String? {
    guard !granted.areUnrestricted else { return nil }
    switch try Confinement.confine(to: granted, removable: removable) {
    case .confined(let roots, let substitutes):
      // Which ones is not the client's to know.
      let directories = roots.count == 1 ? "one directory" : "\(roots.count) directories"
      let missing = substitutes == 0 ? "" : ", \(substitutes) of them above a path that does not exist yet"
      return "Confined by the kernel to \(directories)\(missing)"
    case .unavailable(let reason):
      return "Not confined by the kernel, as \(reason); restrictions are checked for each path"
    }
  }

  private static func configuration(_ options: ServeOptions, _ granted: GrantedRoots)
    -> RPCConnection.Configuration
  {
    // An empty value counts as none, as with the original.
    let hostID = Host.environment("BORG_HOST_ID").flatMap {
      $0.isEmpty ? nil : LockRecord.hostID(decoding: $0)
    }
    var configuration = RPCConnection.Configuration(owner: LockOwner(hostID: hostID))
    configuration.session.granted = granted
    configuration.session.dataLevels = Host.environment("BORG_STORE_DATA_LEVELS")
      .map { String(decoding: $0, as: UTF8.self) }
    switch Permissions.effective(
      option: options.permissions, environment: Host.environment("BORG_REPO_PERMISSIONS"))
    {
    case .success(let mode): configuration.session.permissions = mode
    case .failure(let invalid): configuration.session.refusal = .unsupported(invalid.message)
    }
    configuration.session.refusalOfBorg2 = options.refusalOfBorg2.map(ServeError.unsupported)
    configuration.session.appendOnly = options.appendOnly
    configuration.session.storageQuota = options.storageQuota
    configuration.logsJSON = options.logJSON
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

extension EndSignal {
  fileprivate init?(number: Int32) {
    switch number {
    case SIGTERM: self = .terminate
    case SIGHUP: self = .hangup
    case SIGINT: self = .interrupt
    default: return nil
    }
  }
}

extension Connection {
  /// What the client is told before anything else.
  func greet(_ options: ServeOptions, _ confinement: String?) {
    if let confinement { log(.debug, .serve, confinement) }
    for warning in options.warnings { log(.warning, .serve, warning) }
    if options.showVersion { log(.info, .showVersion, Version.line) }
  }
}
