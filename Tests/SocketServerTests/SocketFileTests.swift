import Disk
import Glibc
import SocketServer
import SystemPackage
import Testing

/// A place for a socket, and looks at it.
private struct Shore {
  let root: TemporaryDirectory
  init() throws { root = try TemporaryDirectory() }

  func path(_ name: String) -> [UInt8] { root.path + Array("/\(name)".utf8) }

  func write(_ name: String, _ text: String) throws {
    let bytes = Array(text.utf8)
    try root.directory.create(name).write(bytes, 0..<bytes.count, at: 0)
  }

  func text(_ name: String) throws -> String {
    let file = try root.directory.file(name)
    return String(decoding: try file.read(at: 0, count: file.size()), as: UTF8.self)
  }

  var entries: [String] { get throws { try root.directory.entries().sorted() } }

  func mode(_ name: String) throws -> mode_t {
    var status = stat()
    let result = unsafe lstat(terminated(path(name)), &status)
    try #require(result == 0)
    return status.st_mode
  }

  /// What a server that was killed leaves behind.
  func leaveDeadSocket(_ name: String) throws {
    _ = try ListeningSocket(bindingTo: path(name))
    #expect(try SocketPathState(at: path(name)) != .nothing)
  }
}

private func message(_ body: () throws -> Void) -> String {
  do {
    try body()
    return "no failure"
  } catch {
    return (error as? SocketFile.Failure)?.message ?? "\(error)"
  }
}

struct SocketFileTests {
  @Test func `a socket is the group's too, with the process id beside it and its directory made`() throws {
    let shore = try Shore()
    let file = try SocketFile(at: shore.path("a/b/x.sock"))
    #expect(try shore.mode("a/b/x.sock") & S_IFMT == S_IFSOCK)
    #expect(try shore.mode("a/b/x.sock") & 0o777 == 0o770)
    #expect(try shore.text("a/b/x.pid") == "\(Host.processID)")
    #expect(try shore.root.directory.directory("a/b").entries().sorted() == ["x.pid", "x.sock"])
    _ = try ConnectedSocket(connectingTo: shore.path("a/b/x.sock"))
    file.remove()
    #expect(try shore.root.directory.directory("a/b").entries() == [])
    file.remove()
  }

  @Test(arguments: [
    ("x.sock", "x.pid"), ("x.sock.sock", "x.sock.pid"), ("x", "x.pid"), (".sock", ".sock.pid"),
  ])
  func `the process id's file has the name that b20 gives it`(socket: String, process: String) throws {
    let shore = try Shore()
    let file = try SocketFile(at: shore.path(socket))
    let expected = process == ".sock.pid" ? [".sock.pid", ".sock"] : [process, socket]
    #expect(try Set(shore.entries) == Set(expected) || socket == ".sock")
    file.remove()
    #expect(try shore.entries == [])
  }

  @Test func `weakness 5: a second server on a living socket is refused and changes nothing`() throws {
    let shore = try Shore()
    let file = try SocketFile(at: shore.path("x.sock"))
    let failure = message { _ = try SocketFile(at: shore.path("x.sock")) }
    #expect(failure.contains("already listens") && failure.contains("PID \(Host.processID)"))
    #expect(try shore.text("x.pid") == "\(Host.processID)")
    _ = try ConnectedSocket(connectingTo: shore.path("x.sock"))
    file.remove()
    try SocketFile(at: shore.path("x.sock")).remove()
  }

  @Test func `weakness 5: another program's living socket is left alone`() throws {
    let shore = try Shore()
    let other = try ListeningSocket(bindingTo: shore.path("x.sock"))
    try other.listen()
    #expect(message { _ = try SocketFile(at: shore.path("x.sock")) }.contains("already listens"))
    #expect(try shore.entries == ["x.sock"])
    _ = try ConnectedSocket(connectingTo: shore.path("x.sock"))
  }

  @Test func `a living socket whose queue is full is living`() throws {
    let shore = try Shore()
    let other = try ListeningSocket(bindingTo: shore.path("x.sock"))
    try other.listen()
    var queue: [ConnectedSocket] = []
    while let socket = try? ConnectedSocket(connectingTo: shore.path("x.sock")), queue.count < 20_000 {
      queue.append(socket)
    }
    #expect(try SocketPathState(at: shore.path("x.sock")) == .living)
  }

  @Test func `weakness 5: a dead socket is replaced`() throws {
    let shore = try Shore()
    try shore.leaveDeadSocket("x.sock")
    try shore.write("x.pid", "999999999")
    let file = try SocketFile(at: shore.path("x.sock"))
    _ = try ConnectedSocket(connectingTo: shore.path("x.sock"))
    #expect(try shore.text("x.pid") == "\(Host.processID)")
    file.remove()
    #expect(try shore.entries == [])
  }

  @Test func `weakness 5: a file, a directory, a link and a pipe at the path are left alone`() throws {
    let shore = try Shore()
    try shore.write("file", "precious")
    try shore.root.directory.makeDirectory("directory")
    try shore.leaveDeadSocket("dead")
    let made = unsafe (
      symlink("dead", terminated(shore.path("link"))), mkfifo(terminated(shore.path("pipe")), 0o600)
    )
    #expect(made == (0, 0))
    let before = try shore.entries
    for name in ["file", "directory", "link", "pipe"] {
      #expect(message { _ = try SocketFile(at: shore.path(name)) }.contains("no socket"), "\(name)")
    }
    #expect(try shore.entries == before)
    #expect(try shore.text("file") == "precious")
  }

  @Test func `a file that holds no process id is left alone, and so is a link in its place`() throws {
    let shore = try Shore()
    try shore.write("x.pid", "to be or not")
    #expect(message { _ = try SocketFile(at: shore.path("x.sock")) }.contains("holds no process id"))
    #expect(try shore.text("x.pid") == "to be or not")
    let made = unsafe symlink("x.pid", terminated(shore.path("y.pid")))
    #expect(made == 0)
    #expect(message { _ = try SocketFile(at: shore.path("y.sock")) }.contains("y.pid"))
    #expect(try shore.entries == ["x.pid", "y.pid"])
  }

  @Test func `what has taken a server's place meanwhile is not removed at its end`() throws {
    let shore = try Shore()
    let file = try SocketFile(at: shore.path("x.sock"))
    try shore.root.directory.remove("x.sock")
    try shore.root.directory.remove("x.pid")
    try shore.write("x.sock", "new")
    try shore.write("x.pid", "7")
    file.remove()
    #expect(try shore.entries == ["x.pid", "x.sock"])
  }

  @Test func `paths that cannot be are refused with their reason`() throws {
    let shore = try Shore()
    let long = String(repeating: "x", count: ListeningSocket.pathLimit - shore.root.path.count)
    #expect(message { _ = try SocketFile(at: shore.path(long)) }.contains("longer than 107 bytes"))
    #expect(message { _ = try SocketFile(at: shore.path("x/")) }.contains("needs a name"))
    try shore.write("file", "")
    #expect(message { _ = try SocketFile(at: shore.path("file/x")) }.contains("Not a directory"))
    #expect(try shore.entries == ["file"])
    let fitting = try SocketFile(at: shore.path(String(long.dropLast())))
    _ = try ConnectedSocket(connectingTo: fitting.listener.path)
    fitting.remove()
  }

  @Test func `of many servers that start at once one listens, and no client ever meets one that does not`()
    throws
  {
    for _ in 0..<20 {
      let shore = try Shore()
      try shore.leaveDeadSocket("x.sock")
      let path = shore.path("x.sock")
      let starting = try (0..<4).map { _ in try Background { try? SocketFile(at: path) } }
      var started: [SocketFile] = []
      for server in starting { if let file = try #require(server.value()) { started.append(file) } }
      #expect(started.count == 1)
      _ = try ConnectedSocket(connectingTo: path)
      for file in started { file.remove() }
      #expect(try shore.entries == [])
    }
  }

  @Test func `clients find a socket that listens or none at all`() throws {
    let shore = try Shore()
    let path = shore.path("x.sock")
    let done = Monitor(false)
    let looking = try Background { () -> [Errno] in
      var failures: [Errno] = []
      while !done.withLock({ $0 }) {
        do throws(Errno) {
          _ = try ConnectedSocket(connectingTo: path)
        } catch {
          if error != .noSuchFileOrDirectory { failures.append(error) }
        }
      }
      return failures
    }
    for _ in 0..<200 {
      let file = try SocketFile(at: path)
      file.remove()
      withExtendedLifetime(file) {}
    }
    done.update { $0 = true }
    // Between the removal of its name and its end a server still takes clients, and never has one refused.
    #expect(looking.value() == [])
  }

  @Test func `only a directory of one's own that is closed to others is private`() throws {
    let shore = try Shore()
    #expect(privateDirectoryProblem(at: shore.path("x"))?.contains("missing") == true)
    #expect(try makeDirectory(at: shore.path("x"), mode: 0o700))
    #expect(try !makeDirectory(at: shore.path("x"), mode: 0o700))
    #expect(privateDirectoryProblem(at: shore.path("x")) == nil)
    try setFileMode(at: shore.path("x"), 0o750)
    #expect(privateDirectoryProblem(at: shore.path("x"))?.contains("mode 750") == true)
    #expect(privateDirectoryProblem(at: shore.path("x"), anyMode: true) == nil)
    let made = unsafe symlink("x", terminated(shore.path("link")))
    #expect(made == 0)
    for name in ["link", "link/"] {
      #expect(privateDirectoryProblem(at: shore.path(name), anyMode: true)?.contains("link") == true)
    }
    try shore.write("file", "")
    #expect(privateDirectoryProblem(at: shore.path("file"))?.contains("not a directory") == true)
    if geteuid() == 0 {
      let result = unsafe chown(terminated(shore.path("x")), 12345, 12345)
      #expect(result == 0)
      #expect(privateDirectoryProblem(at: shore.path("x"), anyMode: true)?.contains("12345") == true)
    }
  }

  @Test func `a notice reaches a service manager, and none that is missing holds anybody up`() throws {
    let shore = try Shore()
    #expect(throws: Errno.self) { try notifyServiceManager(at: shore.path("nobody"), "READY=1") }
    #expect(throws: Errno.self) {
      try notifyServiceManager(at: [UInt8](repeating: 0x78, count: 200), "READY=1")
    }
    #expect(throws: Errno.self) { try notifyServiceManager(at: Array("@borg-serve-nobody".utf8), "READY=1") }
  }
}
