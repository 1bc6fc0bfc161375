import BorgFormat
import Disk
import Glibc
import REST
import ServeCommand
import Session

/// The server of one client that speaks HTTP on standard input and output: `--rest`.
struct RESTServer {
  let options: ServeOptions
  let configuration: SessionConfiguration

  /// Serves to the end. What stops it before the first request is told in one line, in the original's form.
  func run(until signals: EndSignals) -> ExitCode {
    do throws(Refusal) {
      let place = try place()
      if !configuration.granted.areUnrestricted {
        let note: String?
        do { note = try Process.confine(to: configuration.granted) } catch {
          throw Refusal("cannot be confined by the kernel: \(error)")
        }
        if let note, options.logLevel == .debug { printToStandardError("borg-serve: \(note)") }
      }
      let input: ByteInput
      do { input = try ByteInput(STDIN_FILENO) } catch { throw Refusal("cannot start: \(error)") }
      enlargePipe(STDIN_FILENO)
      enlargePipe(STDOUT_FILENO)
      for warning in options.warnings { printToStandardError("borg-serve: \(warning)") }
      if options.showVersion { printToStandardError(Version.line) }
      let output =
        options.idleTimeout > 0 ? ByteOutput(STDOUT_FILENO, step: Limits.idleStep) : ByteOutput(STDOUT_FILENO)
      let connection = RESTConnection(
        input: input, output: output,
        service: Service(place: place, permissions: configuration.permissions),
        idleTimeout: options.idleTimeout > 0 ? .seconds(options.idleTimeout) : nil)
      return serve(connection, until: signals)
    } catch {
      printToStandardError(error.line)
      return error.code
    }
  }

  private struct Refusal: Error {
    let line: String
    let code: ExitCode

    init(_ reason: String) { (line, code) = ("Error: \(reason)", .failure) }

    init(notAllowed path: String) {
      (line, code) = ("Repository path not allowed: \(path).", .pathNotAllowed)
    }
  }

  /// What the backend names, held against the restrictions.
  private func place() throws(Refusal) -> DirectoryPlace {
    if case .unsupported(let text)? = configuration.refusal ?? configuration.refusalOfBorg2 {
      throw Refusal(text)
    }
    guard let url = options.backend else { throw Refusal("--rest needs --backend, such as FILE:/srv/repo.") }
    let path: [UInt8]
    do {
      path = try Backend(parsing: url) { user in
        user == nil ? Host.environment("HOME") ?? Host.homeDirectory() : Host.homeDirectory(of: user)
      }.path
    } catch {
      throw Refusal(error.reason)
    }
    guard path.count <= Limits.path else { throw Refusal("the path of --backend is too long.") }
    let label = String(decoding: path, as: UTF8.self)
    let location: RepositoryLocation?
    do {
      location = try configuration.granted.admit(path)
    } catch {
      throw Refusal("\(label.shortened) cannot be resolved: \(error).")
    }
    guard let location else {
      // Where it leads to is told as the original does, to whoever can read this log.
      throw Refusal(notAllowed: (try? RepositoryPath(resolving: path).text) ?? label)
    }
    return DirectoryPlace(
      location: location, label: label.shortened,
      contents: configuration.granted.areUnrestricted ? .repositories : .anything,
      limit: configuration.usageLimit)
  }

  /// Runs the connection on this thread while another one waits for signals and keeps time.
  private func serve(_ connection: RESTConnection, until signals: EndSignals) -> ExitCode {
    let signal = Monitor<Int32?>(nil)
    let watch = WorkerThread {
      while true {
        if let number = signals.wait(milliseconds: 500) {
          signal.update { $0 = number }
          connection.interrupt()
        }
        connection.tick()
        if connection.isStuck {
          let isDurable = connection.abandon()
          let end = signal.withLock { $0 }.map(ExitCode.signal) ?? (isDurable ? .success : .failure)
          _exit(end.status(modern: true))
        }
      }
    }
    guard watch != nil else {
      printToStandardError("Error: cannot start: no more threads")
      return .failure
    }
    let end = connection.run()
    if let number = signal.withLock({ $0 }) { return .signal(number) }
    switch end {
    case .closed, .idle: return .success
    case .broken, .interrupted: return .failure
    case .malformed(let reason):
      printToStandardError("borg-serve: the client's request cannot be read: \(reason)")
      return .failure
    }
  }
}
