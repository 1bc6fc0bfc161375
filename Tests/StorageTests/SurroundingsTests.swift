import BorgFormat
import Disk
import DiskSimulation
import Glibc
import Storage
import SystemPackage
import Testing

/// A store among things that others put in its way.
@Suite struct SurroundingsTests {
  private static func posix(_ call: () -> Int32) throws {
    guard call() == 0 else { throw Errno(rawValue: errno) }
  }

  @Test(arguments: [Namespace.data, .archives, .locks])
  func `a staging directory that is a dangling link is an error`(namespace: Namespace) throws {
    let directory = try TemporaryDirectory()
    let root = try directory.open()
    try root.makeDirectory(namespace.rawValue)
    let link = "\(directory.path.text)/\(namespace.rawValue)/borg-serve.tmp"
    try Self.posix { unsafe symlink("/nonexistent/target", link) }
    let store = PosixStore(root: root, label: "test", location: RepositoryLocation(path: directory.path))
    let name = namespace == .data ? data(1) : try named("\(namespace.rawValue)/a")
    let failure = #expect(throws: ServeError.self) { try store.store(name, text("x")) }
    guard case .system(let system)? = failure else {
      Issue.record("\(String(describing: failure))")
      return
    }
    #expect(Errno(rawValue: system.code) == .noSuchFileOrDirectory)
    if namespace == .data { #expect(throws: ServeError.self) { try store.upload() } }
    #expect(try store.info(name) == nil)
    try store.close()
  }

  /// Directories that cannot be locked, and that nothing came to for a day: the next session takes them for
  /// a crash's.
  private static func unlockedDisk() -> SimulatedDisk {
    var options = SimulatedDisk.Options()
    options.hasLocks = false
    options.modified = Host.now() / 1000 - 25 * 3600
    return SimulatedDisk(options)
  }

  @Test func `an area that somebody swept is made anew for the next object`() throws {
    let disk = Self.unlockedDisk()
    let store = PosixStore(root: disk.root(), label: "test")
    let names = [data(1), try named("archives/a"), try named("locks/1")]
    for name in names { try store.store(name, text("first")) }
    try store.barrier(durable: true)
    for round in 0..<3 {
      try PosixStore(root: disk.root(), label: "other").close()
      #expect(!disk.paths.contains { $0.contains("borg-serve.tmp") })
      for name in names { try store.store(name, text("round \(round)")) }
      for name in names { #expect(try store.text(name) == "round \(round)") }
      try store.barrier(durable: true)
    }
    try PosixStore(root: disk.root(), label: "other").close()
    let upload = try store.upload()
    upload.append(Array("large".utf8), 0..<5)
    try store.store(data(2), .upload(upload))
    try store.close()
    #expect(!disk.paths.contains { $0.contains("borg-serve.tmp") })
    let next = PosixStore(root: disk.powerCut(seed: 0).root(), label: "test")
    #expect(try next.text(data(2)) == "large")
    #expect(try next.text(named("archives/a")) == "round 2")
  }

  @Test(arguments: [1, 20])
  func `objects that were swept with their area are not lost silently`(count: Int) throws {
    let disk = Self.unlockedDisk()
    let store = PosixStore(root: disk.root(), label: "test")
    for number in 0..<count { try store.store(data(number), text("x")) }
    try PosixStore(root: disk.root(), label: "other").close()
    try store.store(data(count), text("x"))
    #expect(throws: ServeError.self) { try store.store(named("archives/a"), text("x")) }
    #expect(throws: ServeError.self) { try store.close() }
    #expect(disk.contents("archives/a") == nil)
  }

  @Test func `a directory whose name is no text stays when all else is destroyed, and is in the way`() throws
  {
    let outer = try TemporaryDirectory()
    let path = try RepositoryPath(resolving: outer.path.bytes + Array("/repository".utf8))
    #expect(try path.create())
    let root = try path.open()
    let store = PosixStore(root: root, label: "test", location: RepositoryLocation(path: path))
    for name in StoreContract.anyNames { try store.store(name, text("x")) }
    try store.barrier(durable: true)
    let bytes = path.bytes + Array("/data/".utf8) + [0xFF, 0xFE]
    let name = bytes.map { CChar(bitPattern: $0) } + [0]
    try Self.posix { unsafe mkdir(name, 0o777) }
    #expect(try store.destroy() == ["data"])
    // What a session that creates looks at.
    #expect(try path.open().entries() == ["data"])
    #expect(try path.open().directory("data").entries().count == 1)
    try Self.posix { unsafe rmdir(name) }
  }
}
