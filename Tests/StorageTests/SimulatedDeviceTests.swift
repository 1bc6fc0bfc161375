import Disk
import DiskSimulation
import SystemPackage
import Testing

/// That the simulated disk treats several devices, and failed write-backs, as Linux does.
@Suite struct SimulatedDeviceTests {
  private static let content = Array(String(repeating: "content ", count: 40).utf8)

  /// A disk with another device at "far", and beside it "near"; the names of both are durable.
  private static func disk() throws -> SimulatedDisk {
    let disk = SimulatedDisk()
    try disk.mount(at: "far")
    try disk.install([], at: "near/old")
    return disk
  }

  private static func write(_ path: String, in root: Directory) throws {
    let file = try root.create(path)
    try file.write(content, content.indices, at: 0)
  }

  @Test func `everything below a mount point is on another device`() throws {
    let root = try Self.disk().root()
    try root.makeDirectories("far/a/b")
    try Self.write("far/a/b/c", in: root)
    let devices = try ["", "near", "near/old", "far", "far/a/b", "far/a/b/c"].map { name in
      try root.status(name)?.device
    }
    #expect(devices[0..<3].allSatisfy { $0 == devices[0] })
    #expect(devices[3...].allSatisfy { $0 == devices[3] })
    #expect(devices[0] != devices[3])
  }

  @Test func `nothing is renamed from one device to another`() throws {
    let root = try Self.disk().root()
    try Self.write("far/x", in: root)
    #expect(throws: Errno.improperLink) { try root.rename("far/x", to: "near/x", in: root) }
    #expect(throws: Errno.improperLink) { try root.rename("near/old", to: "far/old", in: root) }
    #expect(throws: Errno.resourceBusy) { try root.rename("far", to: "near/far", in: root) }
    #expect(throws: Errno.resourceBusy) { try root.removeDirectory("far") }
    try root.rename("far/x", to: "far/y", in: root)
  }

  @Test(arguments: ["near", "far"])
  func `syncing one file system does nothing for another`(synced: String) throws {
    for seed in 0..<60 as Range<UInt64> {
      let disk = try Self.disk()
      let root = disk.root()
      for name in ["near/x", "far/x"] { try Self.write(name, in: root) }
      try root.directory(synced).syncFileSystem()
      let after = disk.powerCut(seed: seed)
      #expect(after.contents("\(synced)/x") == Self.content, "seed \(seed)")
    }
    let wasLost = try (0..<60 as Range<UInt64>).contains { seed in
      let disk = try Self.disk()
      for name in ["near/x", "far/x"] { try Self.write(name, in: disk.root()) }
      try disk.root().directory(synced).syncFileSystem()
      return disk.powerCut(seed: seed).contents(synced == "near" ? "far/x" : "near/x") != Self.content
    }
    #expect(wasLost)
  }

  @Test func `what a mount hides is reached by those who have it open`() throws {
    let disk = try Self.disk()
    let hidden = try disk.root().directory("near")
    try disk.mount(at: "near")
    #expect(try disk.root().entries().sorted() == ["far", "near"])
    #expect(try disk.root().directory("near").entries() == [])
    #expect(try hidden.entries() == ["old"])
    #expect(throws: Errno.improperLink) { try hidden.rename("old", to: "near/old", in: disk.root()) }
    #expect(disk.powerCut(seed: 0).paths == ["far/", "near/"])
  }

  @Test func `each descriptor is told once of a failed write-back of its device`() throws {
    let disk = try Self.disk()
    let (first, second, far) = (disk.root(), disk.root(), try disk.root().directory("far"))
    try Self.write("near/x", in: first)
    disk.failWriteback()
    for root in [first, second] {
      #expect(throws: Errno.ioError) { try root.syncFileSystem() }
      try root.syncFileSystem()
    }
    try far.syncFileSystem()
    // Opened when somebody had been told.
    try disk.root().syncFileSystem()
    #expect(disk.contents("near/x") == Self.content)
    #expect(disk.powerCut(seed: 0).contents("near/x") != Self.content)
  }

  @Test func `who opens a file system after a failure that nobody was told of is told`() throws {
    let disk = try Self.disk()
    disk.failWriteback(below: "far")
    let far = try disk.root().directory("far")
    try disk.root().syncFileSystem()
    #expect(throws: Errno.ioError) { try far.syncFileSystem() }
  }

  @Test func `a file's failed write-back is told at its own sync, to each that has it open`() throws {
    let disk = try Self.disk()
    let root = disk.root()
    let writer = try root.create("near/x")
    let reader = try root.file("near/x")
    try writer.write(Self.content, Self.content.indices, at: 0)
    disk.failWriteback()
    for file in [writer, reader] {
      #expect(throws: Errno.ioError) { try file.sync() }
      try file.sync()
    }
    try root.file("near/x").sync()
    try root.file("near/old").sync()
  }

  @Test func `a failed sync of the file system is told the other descriptors, too`() throws {
    let disk = try Self.disk()
    let (first, second) = (disk.root(), disk.root())
    disk.fail(.syncFileSystem, with: .noSpace)
    #expect(throws: Errno.noSpace) { try first.syncFileSystem() }
    try first.syncFileSystem()
    #expect(throws: Errno.ioError) { try second.syncFileSystem() }
  }

  @Test func `of two that sync one descriptor at once, one is told of a failure`() throws {
    let disk = try Self.disk()
    let root = disk.root()
    disk.before(.syncFileSystem) {
      disk.failWriteback()
      let other = WorkerThread { try? root.syncFileSystem() }
      #expect(disk.waitUntilFinished(.syncFileSystem, count: 1, patience: .seconds(5)))
      other?.join()
    }
    try root.syncFileSystem()
    #expect(disk.count(.syncFileSystem) == 2)
  }

  @Test func `a hook at a call's end sees what it did`() throws {
    let disk = try Self.disk()
    let seen = Monitor<[String]>([])
    disk.after(.unlink) { seen.update { $0 = disk.paths } }
    try disk.root().remove("near/old")
    #expect(seen.withLock { $0 } == ["far/", "near/"])
    #expect(!disk.waitUntilFinished(.unlink, count: 2, patience: .zero))
  }
}
