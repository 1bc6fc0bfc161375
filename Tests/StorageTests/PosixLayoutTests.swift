import BorgFormat
import Disk
import DiskSimulation
import Glibc
import Storage
import SystemPackage
import Testing

/// How `PosixStore` lays a repository out, which other Borg programs read.
@Suite struct PosixLayoutTests {
  private static func store(
    on disk: SimulatedDisk, levels: Int = 2, location: RepositoryLocation? = nil
  ) -> PosixStore {
    var options = PosixStore.Options()
    options.dataLevels = levels
    options.publishesInBackground = false
    return PosixStore(root: disk.root(), label: "test", options: options, location: location)
  }

  @Test(arguments: [0: "", 1: "ab/", 2: "ab/cd/", 3: "ab/cd/ef/"])
  func `objects are nested by the bytes of their ids`(level: Int, directories: String) throws {
    let id = ObjectID(0xABCD_EF01_0203_0405, 0, 0, 1)
    let disk = SimulatedDisk()
    let store = Self.store(on: disk, levels: level)
    try store.store(StoreName(id: id), text("x"))
    try store.store(try named("archives/a"), text(""))
    try store.close()
    #expect(disk.contents("data/\(directories)\(id.hex)") == Array("x".utf8))
    #expect(disk.contents("archives/a") == [])
    #expect(disk.paths.filter { !$0.hasSuffix("/") }.count == 2)
  }

  @Test func `a soft-deleted object has the original's ending`() throws {
    let disk = SimulatedDisk()
    let store = Self.store(on: disk)
    try store.store(try named("archives/a"), text("x"))
    _ = try store.move(try named("archives/a"), to: try named("archives/a").softDeleted())
    #expect(disk.contents("archives/a.del") == Array("x".utf8))
    #expect(disk.contents("archives/a") == nil)
  }

  @Test func `objects are private files, directories follow the mask`() throws {
    let directory = try TemporaryDirectory()
    let root = try directory.open()
    let store = PosixStore(root: root, label: "test")
    for name in [data(1), try named("archives/a"), try named("locks/1"), try named("config/c")] {
      try store.store(name, text("x"))
    }
    try store.close()
    let paths = try ["archives/a", "locks/1", "config/c", data(1).nested(dataLevels: 2)].map {
      try Self.mode("\(directory.path.text)/\($0)")
    }
    #expect(paths.allSatisfy { $0 == 0o600 })
    let reference = try Self.mode(directory.path.text)
    #expect(try Self.mode("\(directory.path.text)/data") == reference)
    #expect(try Self.mode("\(directory.path.text)/archives") == reference)
  }

  private static func mode(_ path: String) throws -> mode_t {
    var status = stat()
    guard unsafe stat(path, &status) == 0 else { throw Errno(rawValue: errno) }
    return status.st_mode & 0o777
  }

  @Test func `opening a store writes nothing`() throws {
    let disk = SimulatedDisk()
    let store = Self.store(on: disk)
    _ = try store.info(data(1))
    _ = try store.list("", deleted: false)
    try store.barrier(durable: true)
    try store.close()
    #expect(disk.paths.isEmpty)
  }

  @Test func `waiting objects are hidden from every listing`() throws {
    let disk = SimulatedDisk()
    let store = Self.store(on: disk)
    try store.store(data(1), text("x"))
    let waiting = disk.paths.filter { $0.hasPrefix("data/borg-serve.tmp/") }
    #expect(waiting.count == 3)
    let other = Self.store(on: disk)
    #expect(try other.list("", deleted: false) == [])
    #expect(try other.list("data", deleted: false) == [])
    #expect(try other.objects(after: nil, limit: 10) { Issue.record("foreign: \($0)") } == [])
    try store.close()
  }

  @Test func `others see locks at once, and objects after a barrier`() throws {
    let disk = SimulatedDisk()
    let (store, other) = (Self.store(on: disk), Self.store(on: disk))
    try store.store(try named("locks/1"), text("x"))
    try store.store(data(1), text("x"))
    #expect(try other.info(named("locks/1")) == 1)
    #expect(try other.info(data(1)) == nil)
    try store.barrier(durable: false)
    #expect(try other.info(data(1)) == 1)
    try store.close()
    try other.close()
  }

  @Test func `locks are never synced, nor is their directory`() throws {
    // A durable name over bytes that are not durable is an empty lock, on which the original stumbles.
    var options = SimulatedDisk.Options()
    options.syncsWhole = false
    let disk = SimulatedDisk(options)
    let store = Self.store(on: disk)
    try store.store(try named("locks/1"), text("x"))
    try store.store(try named("archives/a"), text("x"))
    try store.close()
    for seed in 0..<20 {
      let found = disk.powerCut(seed: UInt64(seed)).contents("archives/a")
      #expect(found == Array("x".utf8))
    }
    let opened = disk.calls.filter { $0.kind == .open && $0.names.hasSuffix("locks") }
    #expect(opened == [])
  }

  @Test func `a crash's leftovers go when the next session opens`() throws {
    let disk = SimulatedDisk()
    let crashed = Self.store(on: disk)
    try crashed.store(data(1), text("x"))
    try crashed.store(try named("archives/a"), text("x"))
    try crashed.store(data(2), text("x"))
    let after = disk.kill()
    #expect(after.paths.contains { $0.contains("borg-serve.tmp") })
    let next = Self.store(on: after)
    #expect(!after.paths.contains { $0.contains("borg-serve.tmp") })
    #expect(try next.info(data(1)) == 1)
    #expect(try next.info(data(2)) == nil)
    try next.close()
  }

  @Test func `a living session's area is left alone`() throws {
    let disk = SimulatedDisk()
    let living = Self.store(on: disk)
    try living.store(data(1), text("x"))
    let before = disk.paths
    let other = Self.store(on: disk)
    #expect(disk.paths == before)
    try other.store(data(2), text("y"))
    try other.close()
    try living.barrier(durable: true)
    #expect(try living.text(data(1)) == "x")
    try living.close()
    #expect(!disk.paths.contains { $0.contains("borg-serve.tmp") })
  }

  @Test(arguments: [(3600, true), (25 * 3600, false)])
  func `where directories cannot be locked, age protects`(age: Int64, isKept: Bool) throws {
    var options = SimulatedDisk.Options()
    options.hasLocks = false
    options.modified = Host.now() / 1000 - age
    let disk = SimulatedDisk(options)
    let session = Self.store(on: disk)
    try session.store(data(1), text("x"))
    let next = Self.store(on: disk)
    #expect(disk.paths.contains { $0.contains("borg-serve.tmp") } == isKept)
    try next.close()
    if isKept { try session.close() }
  }

  @Test func `a session that starts while another sweeps keeps its area`() throws {
    let disk = SimulatedDisk()
    let wasDisturbed = Monitor(false)
    // The other one opens the store between the making of the directory and the lock.
    disk.before(.lock) {
      _ = Self.store(on: disk)
      wasDisturbed.update { $0 = true }
    }
    let store = Self.store(on: disk)
    try store.store(data(1), text("x"))
    try store.barrier(durable: true)
    #expect(wasDisturbed.withLock { $0 })
    #expect(try store.text(data(1)) == "x")
    try store.close()
  }

  @Test func `a sweeper keeps the lock until the directory is gone`() throws {
    let disk = SimulatedDisk()
    let dead = disk.root()
    try dead.makeDirectories("data/borg-serve.tmp/1-dead")
    let wasFree = Monitor(false)
    // A session that is just starting must not get the lock of what is about to vanish.
    disk.before(.removeDirectory) {
      guard let area = try? dead.directory("data/borg-serve.tmp/1-dead") else { return }
      let isLocked = (try? area.lock()) ?? false
      wasFree.update { $0 = isLocked }
    }
    _ = Self.store(on: disk)
    #expect(!disk.paths.contains { $0.contains("borg-serve.tmp") })
    #expect(!wasFree.withLock { $0 })
  }

  @Test func `a session that finds its directory locked takes another`() throws {
    let disk = SimulatedDisk()
    let sweeper = Monitor<Directory?>(nil)
    disk.before(.lock) {
      let path = disk.paths.first { $0.hasPrefix("data/borg-serve.tmp/") && $0.count > 21 }
      let area = path.flatMap { try? disk.root().directory($0) }
      _ = try? area?.lock()
      sweeper.update { $0 = area }
    }
    let store = Self.store(on: disk)
    try store.store(data(1), text("x"))
    let locked = try #require(sweeper.withLock { $0 })
    #expect(try locked.entries() == [])
    try store.close()
  }

  @Test func `foreign names are reported, in every place`() throws {
    let disk = SimulatedDisk()
    let foreign = [
      "data/README", "data/zz/x", "data/ab/cd/short", "data/ab/file", "data/AB/cd/x", "data/abc/x",
      "data/ab/cd/\(String(repeating: "F", count: 64))",
      "data/ab/cd/ffff\(String(repeating: "0", count: 60))",
    ]
    for path in foreign { try disk.install([1], at: path) }
    try disk.install([1], at: "data/ab/cd/abcd\(String(repeating: "0", count: 60))/x")
    try disk.install([1], at: "data/ab/cd/tmp12345678.tmp")
    try disk.install([1], at: "data/ab/x.hid")
    let store = Self.store(on: disk)
    try store.store(data(1), text("x"))
    var reported: [String] = []
    let page = try store.objects(after: nil, limit: 100) { reported.append($0) }
    #expect(page?.map(\.id) == [id(1)])
    let expected = [
      "data/AB", "data/README", "data/ab/cd/\(String(repeating: "F", count: 64))",
      "data/ab/cd/abcd\(String(repeating: "0", count: 60))",
      "data/ab/cd/ffff\(String(repeating: "0", count: 60))", "data/ab/cd/short", "data/ab/file", "data/abc",
      "data/zz",
    ]
    #expect(reported.sorted() == expected.sorted())
    try store.close()
  }

  @Test func `weakness 10: a late page of a listing costs no more than an early one`() throws {
    let disk = SimulatedDisk()
    let store = Self.store(on: disk)
    for number in 0..<800 { try store.store(data(number), text("")) }
    try store.barrier(durable: false)
    let all = try #require(try store.objects(after: nil, limit: 1000, foreign: { _ in })).map(\.id)
    #expect(all.count == 800)
    func cost(after position: Int) throws -> Int {
      let before = disk.calls.count
      let page = try #require(try store.objects(after: all[position], limit: 10, foreign: { _ in }))
      #expect(page.map(\.id) == Array(all[position + 1...position + 10]))
      return disk.calls.count - before
    }
    let costs = try [10, 400, 780].map(cost)
    let least = try #require(costs.min())
    #expect(costs.allSatisfy { $0 < least + 20 }, "\(costs)")
  }

  @Test func `hidden names are in no listing`() throws {
    let disk = SimulatedDisk()
    for path in ["archives/tmpabcdefgh.tmp", "archives/x.hid", "archives/dir.tmp/x", "quota.hid"] {
      try disk.install([1], at: path)
    }
    let store = Self.store(on: disk)
    for deleted in [false, true] {
      #expect(try store.list("archives", deleted: deleted) == [])
      #expect(try store.list("", deleted: deleted) == [])
    }
    try store.close()
  }

  @Test(arguments: ["archives/borg-serve.tmp/x-1/a", "config/a.hid/b", "cache/a.tmp"])
  func `no client's name leads into a hidden directory`(name: String) {
    #expect(throws: ServeError.self) { try named(name) }
  }

  @Test func `destroying keeps what is foreign, and names it`() throws {
    let disk = SimulatedDisk()
    for path in ["README.txt", "zoo/animal", "quota.hid", "data/junk"] { try disk.install([1], at: path) }
    let store = Self.store(on: disk)
    for name in StoreContract.anyNames { try store.store(name, text("x")) }
    try store.barrier(durable: true)
    #expect(try store.destroy() == ["README.txt", "zoo"])
    #expect(disk.paths == ["README.txt", "zoo/", "zoo/animal"])
  }

  @Test func `destroying removes the directory itself`() throws {
    let outer = try TemporaryDirectory()
    let path = try RepositoryPath(resolving: outer.path.bytes + Array("/repository".utf8))
    #expect(try path.create())
    let store = PosixStore(root: try path.open(), label: "test", location: RepositoryLocation(path: path))
    for name in StoreContract.anyNames { try store.store(name, text("x")) }
    #expect(try store.destroy() == [])
    #expect(try outer.open().entries() == [])
  }

  @Test func `nothing half-destroyed is taken for a repository`() throws {
    for seed in 0..<200 as Range<UInt64> {
      var options = SimulatedDisk.Options()
      options.syncsWhole = !seed.isMultiple(of: 2)
      let disk = SimulatedDisk(options)
      let store = Self.store(on: disk)
      let names = [
        RepositoryLayout.readmeName, RepositoryLayout.idName, RepositoryLayout.versionName, data(1), data(2),
        try named("archives/a"),
      ]
      for name in names { try store.store(name, text("x")) }
      try store.barrier(durable: true)
      disk.losePower(after: Int(seed / 3))
      _ = try? store.destroy()
      let next = Self.store(on: seed.isMultiple(of: 5) ? disk.kill() : disk.powerCut(seed: seed))
      guard try next.info(RepositoryLayout.readmeName) != nil else { continue }
      for name in names { #expect(try next.info(name) == 1, "\(name.text), seed \(seed)") }
    }
  }
}
