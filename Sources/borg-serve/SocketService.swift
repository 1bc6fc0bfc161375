import BorgFormat
import Disk
import Glibc
import RPC
import ServeCommand
import Session
import SocketServer

/// The server of unix sockets: finds or makes them, serves their clients, and ends when it is told to.
struct SocketService {
  let options: ServeOptions
  let socket: ServeOptions.Socket
  /// How each connection is configured; a new value for each, so that none sees what another has done.
  let configuration: RPCConnection.Configuration

  private struct Failure: Error {
    let message: String
  }

  func run(until signals: EndSignals) -> ExitCode {
    do {
      let (listeners, file) = try open()
      defer { file?.remove() }
      // The files are there now; what is left to do with them is to remove them.
      let confinement = try Process.confine(
        to: configuration.session.granted, removable: file.map { [$0.directory] } ?? [])
      return try serve(listeners, file, confinement, until: signals)
    } catch let failure as Failure {
      printToStandardError("borg-serve: \(failure.message).")
    } catch let failure as SocketFile.Failure {
      printToStandardError("borg-serve: \(failure.message).")
    } catch {
      printToStandardError("borg-serve: cannot start: \(error)")
    }
    return .failure
  }

  // MARK: Finding sockets

  /// The sockets that were inherited, else one of our own.
  private func open() throws -> ([ListeningSocket], SocketFile?) {
    let inherited = inheritedSockets(
      processID: Host.environment("LISTEN_PID"), count: Host.environment("LISTEN_FDS"))
    guard inherited.isEmpty else {
      let usable = inherited.compactMap { $0 }
      guard usable.count == inherited.count else {
        throw Failure(
          message: "not every inherited descriptor is a listening unix stream socket "
            + "(for connected ones: StandardInput=socket, and no --socket)")
      }
      return (usable, nil)
    }
    let path: [UInt8] =
      switch socket {
      case .path(let path): path
      case .defaultPath: try defaultPath()
      }
    let file = try SocketFile(at: path)
    return ([file.listener], file)
  }

  private func defaultPath() throws -> [UInt8] {
    var problems: [String] = []
    for candidate in RuntimeDirectory.candidates(userID: Int(geteuid()), environment: Host.environment) {
      let problem: String?
      switch candidate.condition {
      case .none: problem = nil
      case .isPrivate(let made):
        if made { _ = try? makeDirectory(at: candidate.base, mode: 0o700) }
        problem = privateDirectoryProblem(at: candidate.base)
      case .isMadePrivate:
        _ = try? makeDirectory(at: candidate.base, mode: 0o700)
        problem = privateDirectoryProblem(at: candidate.base, anyMode: true)
        if problem == nil { try? setFileMode(at: candidate.base, 0o700) }
      }
      guard let problem else { return candidate.socket }
      problems.append("\(String(decoding: candidate.base, as: UTF8.self)) \(problem)")
    }
    throw Failure(message: "there is no directory for the socket: \(problems.joined(separator: "; "))")
  }

  // MARK: Serving

  private func serve(
    _ listeners: [ListeningSocket], _ file: SocketFile?, _ confinement: String?, until signals: EndSignals
  ) throws -> ExitCode {
    var bounds = SocketServer.Bounds()
    if let limit = options.maxConnections { bounds.connections = limit }
    let files = raiseOpenFileLimit()
    if files < UInt64(bounds.connections * Limits.filesPerConnection) {
      printToStandardError(
        "borg-serve: \(files) open files may not be enough for \(bounds.connections) connections; see LimitNOFILE in "
          + "systemd.exec(5), or --max-connections.")
    }
    let server = try SocketServer(listeners: listeners, bounds: bounds, tell: printToStandardError) {
      [limit = bounds.connections] accepted in
      try connection(accepted, confinement, limit: limit)
    }
    let signal = Monitor<Int32?>(nil)
    guard let watch = WorkerThread({ Self.watch(signals, signal, server) }) else {
      throw Failure(message: "cannot start: no more threads")
    }
    _ = watch
    if let confinement { printToStandardError("borg-serve: \(confinement).") }
    for listener in listeners {
      printToStandardError("borg serve: PID \(Host.processID), listening on socket \(listener.name) ...")
    }
    notify("READY=1")
    server.run {
      notify("STOPPING=1")
      file?.remove()
    }
    return .signal(signal.withLock { $0 } ?? SIGTERM)
  }

  /// Ends the server with the first signal and the process with a later one. Those that come with the first do not
  /// count: a terminal that is closed sends several.
  private static func watch(_ signals: EndSignals, _ signal: Monitor<Int32?>, _ server: SocketServer) {
    var first: ContinuousClock.Instant?
    while true {
      guard let number = signals.wait(milliseconds: -1) else { continue }
      guard let began = first else {
        first = .now
        signal.update { $0 = number }
        server.stop()
        continue
      }
      if ContinuousClock.now - began > .milliseconds(200) {
        _exit(ExitCode.signal(number).status(modern: true))
      }
    }
  }

  private func connection(_ accepted: SocketServer.Accepted, _ confinement: String?, limit: Int) throws
    -> any ServedConnection
  {
    var configuration = configuration
    configuration.tell = { printToStandardError("borg-serve: #\(accepted.number): \($0)") }
    if accepted.admission == .refused {
      configuration.session.refusal = .unsupported(
        "This server already serves as many clients as it may (\(limit)). Try again later.")
    }
    // A socket has no second stream beside the protocol.
    configuration.borg1Log = .administrator(configuration.tell)
    let connection = Connection(
      input: try ByteInput(accepted.socket), output: ByteOutput(accepted.socket), configuration: configuration
    )
    connection.greet(options, confinement)
    return ServedRPC(connection: connection)
  }

  private func notify(_ state: String) {
    guard let address = Host.environment("NOTIFY_SOCKET"), !address.isEmpty else { return }
    do {
      try notifyServiceManager(at: address, state)
    } catch {
      printToStandardError("borg-serve: cannot tell the service manager \(state): \(error)")
    }
  }
}

private struct ServedRPC: ServedConnection {
  let connection: Connection

  func run() -> String {
    switch connection.run() {
    case .closed: "closed by the client"
    case .interrupted: "interrupted"
    case .broken: "broken"
    case .idle: "idle for too long"
    case .fault(.notAMap): "sent what is no request of Borg"
    case .fault(.malformed(let reason)): "sent what cannot be read: \(reason)"
    }
  }

  func interrupt() { connection.interrupt() }

  func tick() { connection.tick() }
}
