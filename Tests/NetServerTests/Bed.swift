import BorgFormat
import CCrypt
import Disk
import DiskSimulation
import Glibc
import REST
import Synchronization
import SystemPackage

@testable import NetServer

/// A running server on loopback with repositories in memory; it ends with its last owner.
final class Bed: Sendable {
  let directory: TemporaryDirectory
  let server: NetworkServer
  let events = Events()
  let log: Log
  private let lines = Monitor<[String]>([])
  private let stopped = Mutex(false)

  final class Events: Sendable {
    struct State {
      var begun = 0
      var abandoned = 0
      var isOpen = false
    }
    let state = Monitor(State())
    func openGate() { state.update { $0.isOpen = true } }
    func waitForGate() { _ = state.wait(timeout: .seconds(20)) { $0.isOpen ? () : nil } }
  }

  /// Users and passwords, hashed as cheaply as bcrypt can.
  struct Login {
    let user: String
    let password: String
  }

  /// `text` is the configuration; `@` in it stands for the directory. Without a listener in it, one on a free port is added.
  init(_ text: String = "", logins: [Login] = [], files: [String: String] = [:]) throws {
    directory = try TemporaryDirectory()
    let path = directory.path.text
    if !logins.isEmpty { try Self.write(logins, to: "\(path)/passwords") }
    for (name, content) in files { try Self.write(content, to: "\(path)/\(name)") }
    var text = text.replacing("@", with: path)
    if !logins.isEmpty { text = "credentials = \"\(path)/passwords\"\n" + text }
    text = "root = \"\(path)\"\nrepository-metrics-interval = 0\n" + text
    if !text.contains("[[listener]]") { text += "\n[[listener]]\naddress = \"127.0.0.1:0\"\n" }
    let file = "\(path)/listen.toml"
    try Self.write(text, to: file)
    let configuration = try Configuration(parsing: text)
    log = Log(configuration.log) { [lines] text in
      lines.update { $0 += text.split(separator: "\n").map(String.init) }
    }
    server = try NetworkServer(
      configuration, file: file, log: log, open: { name, _ in MemoryPlace(name) },
      begin: { [events] head, place, permissions in
        guard let place = place as? MemoryPlace else {
          return StandInExchange(head, MemoryPlace(nobody), permissions, events)
        }
        return StandInExchange(head, place, permissions, events)
      })
    try server.start()
  }

  deinit { stop() }

  func stop() {
    let isFirst = stopped.withLock { stopped in
      defer { stopped = true }
      return !stopped
    }
    guard isFirst else { return }
    events.openGate()
    server.stop()
    log.end()
  }

  /// The port of a TCP listener.
  func port(_ number: Int = 0) -> Int { Int(server.addresses[number].split(separator: ":").last ?? "") ?? 0 }

  func client(_ number: Int = 0) throws -> Client { try Client(port: port(number)) }

  /// Whether the log gets a line with all of these words in it.
  func logs(_ words: String...) -> Bool {
    lines.wait(timeout: .seconds(10)) { lines in
      lines.contains { line in words.allSatisfy { line.contains($0) } } ? () : nil
    } != nil
  }

  var logText: String { lines.withLock { $0.joined(separator: "\n") } }

  func write(_ content: String, to name: String) throws {
    try Self.write(content, to: "\(directory.path.text)/\(name)")
  }

  func write(_ logins: [Login]) throws { try Self.write(logins, to: "\(directory.path.text)/passwords") }

  static func write(_ logins: [Login], to path: String) throws {
    try write(logins.map { "\($0.user):\(hash($0.password))\n" }.joined(), to: path)
  }

  static func write(_ content: String, to path: String) throws {
    let temporary = path + ".new"
    let descriptor = unsafe open(temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0o600)
    guard descriptor >= 0 else { throw Errno(rawValue: errno) }
    let bytes = Array(content.utf8)
    guard unsafe Glibc.write(descriptor, bytes, bytes.count) == bytes.count else {
      throw Errno(rawValue: errno)
    }
    _ = close(descriptor)
    guard unsafe rename(temporary, path) == 0 else { throw Errno(rawValue: errno) }
  }

  /// As `htpasswd -B` does, or by another method.
  static func hash(_ password: String, prefix: String = "$2y$", cost: UInt = 4) -> String {
    let area = UnsafeMutablePointer<crypt_data>.allocate(capacity: 1)
    unsafe memset(area, 0, MemoryLayout<crypt_data>.size)
    defer { unsafe area.deallocate() }
    var setting = [CChar](repeating: 0, count: Int(CRYPT_GENSALT_OUTPUT_SIZE))
    guard unsafe crypt_gensalt_rn(prefix, cost, nil, 0, &setting, Int32(setting.count)) != nil,
      let result = unsafe crypt_rn(password, setting, area, Int32(MemoryLayout<crypt_data>.size))
    else { return "" }
    return unsafe String(cString: result)
  }
}

private let nobody = RepositoryName("nobody")!
