import BorgFormat
import Disk
import Glibc
import NetServer
import REST
import ServeCommand
import SystemPackage

/// The wiring of `borg-serve listen`.
enum ListenCommand {
  private struct Failure: Error {
    let message: String
  }

  static func run() -> Int32 {
    reserveStandardDescriptors()
    do {
      let options = try ListenOptions(
        Host.arguments().dropFirst().map { String(decoding: $0, as: UTF8.self) })
      switch options.action {
      case .help: try show(ListenOptions.help)
      case .version: try show(Version.line + "\n")
      case .check: try check(options)
      case .listen: return try listen(options)
      }
      return 0
    } catch let error as ListenOptions.UsageError {
      printToStandardError("borg-serve: listen: \(error.message); see borg-serve listen --help")
    } catch let failure as Failure {
      for line in failure.message.split(separator: "\n") {
        printToStandardError("borg-serve: listen: \(line)")
      }
    } catch {
      printToStandardError("borg-serve: listen: \(error)")
    }
    return 2
  }

  private static func show(_ text: String) throws(Errno) {
    let bytes = Array(text.utf8)
    try ByteOutput(STDOUT_FILENO).write(bytes, count: bytes.count)
  }

  // MARK: Configuration

  private static func file(_ options: ListenOptions) -> String? {
    options.configuration ?? (options.flags.root == nil ? ListenOptions.defaultConfiguration : nil)
  }

  private static func configuration(_ options: ListenOptions) throws(Failure) -> Configuration {
    let file = file(options)
    do {
      let text = try file.map { try NetworkServer.text($0) } ?? ""
      return try Configuration(parsing: text, flags: options.flags)
    } catch let invalid as Configuration.Invalid {
      throw Failure(
        message: invalid.problems.map { "\(file.map { "\($0): " } ?? "")\($0)" }.joined(separator: "\n"))
    } catch {
      throw Failure(message: "\(file ?? ""): \(error)")
    }
  }

  private static func check(_ options: ListenOptions) throws {
    let configuration = try configuration(options)
    let users: Set<String>
    do { users = try NetworkServer.check(configuration) } catch { throw Failure(message: error.description) }
    try show(configuration.summary(users: users))
  }

  // MARK: Serving

  private static func listen(_ options: ListenOptions) throws -> Int32 {
    let configuration = try configuration(options)
    setFileModeCreationMask(configuration.umask)
    raiseOpenFileLimit()
    let signals = try EndSignals()
    let granted = GrantedRoots(paths: [Array(configuration.root.utf8)])
    _ = try RepositoryPath(resolving: Array(configuration.root.utf8)).create()
    let sockets: UnixSockets
    do { sockets = try UnixSockets(of: configuration) } catch { throw Failure(message: error.description) }
    defer { sockets.remove() }
    let log = try makeLog(configuration, granted, options, sockets)
    defer { log.end() }
    let repositories = Repositories(granted: granted, root: configuration.root)
    let server: NetworkServer
    do throws(NetworkServer.Failure) {
      server = try NetworkServer(
        configuration, file: file(options), flags: options.flags, sockets: sockets, log: log,
        open: { repositories.place($0, $1) }, prepare: { try repositories.setQuotas($0) },
        begin: Repositories.begin)
      try server.start()
    } catch {
      log.end()
      throw Failure(message: error.description)
    }
    tell("READY=1")
    let signal = wait(for: signals, server)
    tell("STOPPING=1")
    // A second signal ends the process at once.
    let impatience = WorkerThread {
      while true {
        guard let number = signals.wait(milliseconds: -1), number != SIGHUP else { continue }
        _exit(ExitCode.signal(number).status(modern: true))
      }
    }
    _ = impatience
    server.stop()
    log.end()
    return signal == SIGTERM ? 0 : ExitCode.signal(signal).status(modern: true)
  }

  /// Confines the process, before it has a second thread, and makes the log.
  private static func makeLog(
    _ configuration: Configuration, _ granted: GrantedRoots, _ options: ListenOptions, _ sockets: UnixSockets
  ) throws -> Log {
    var message = "not confined by the kernel, as the configuration says"
    if configuration.confines {
      let files =
        [file(options), configuration.credentials].compactMap { $0 }
        + configuration.listeners.compactMap(\.tls).flatMap { [$0.certificate, $0.key] }
      // Directories, since files are replaced by others of their names.
      let readable = files.flatMap { file in directories(of: file) }
      switch try Confinement.confine(to: granted, removable: sockets.directories, readable: readable) {
      case .confined: message = "confined by the kernel to \(configuration.root)"
      case .unavailable(let reason): message = "not confined by the kernel, as \(reason)"
      }
    }
    let lines = LineOutput(STDERR_FILENO, patience: .seconds(1))
    let log = Log(configuration.log) { lines.write($0) }
    log.write(.info, message)
    return log
  }

  /// Where a file's name is, and where it leads.
  private static func directories(of file: String) -> [RepositoryPath] {
    let bytes = Array(file.utf8)
    // Without a slash it is in the working directory, whose path is empty.
    let directory = bytes.lastIndex(of: UInt8(ascii: "/")).map { bytes[...$0] } ?? []
    let own = try? RepositoryPath(resolving: Array(directory))
    let target = (try? RepositoryPath(resolving: bytes))?.parent
    return [own, target].compactMap { $0 }
  }

  /// Keeps time until a signal comes that ends the server.
  private static func wait(for signals: EndSignals, _ server: NetworkServer) -> Int32 {
    while true {
      if let number = signals.wait(milliseconds: 1000) {
        guard number == SIGHUP else { return number }
        tell("RELOADING=1")
        server.reload()
        tell("READY=1")
      }
      server.tick()
    }
  }

  private static func tell(_ state: String) {
    guard let address = Host.environment("NOTIFY_SOCKET"), !address.isEmpty else { return }
    try? notifyServiceManager(at: address, state)
  }
}
