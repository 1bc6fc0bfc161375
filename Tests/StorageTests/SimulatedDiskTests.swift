import BorgFormat
import Disk
import DiskSimulation
import SystemPackage
import Testing

/// That the simulated disk does what real file systems were seen to do: ext4 and xfs after a cut of the power.
@Suite struct SimulatedDiskTests {
  private static let content = Array(String(repeating: "content ", count: 40).utf8)

  /// What may be under the temporary and the final name after a power cut.
  private static func outcomes(_ steps: (Directory) throws -> Void) throws -> Set<[String]> {
    var seen: Set<[String]> = []
    for seed in 0..<200 as Range<UInt64> {
      let disk = SimulatedDisk()
      try steps(disk.root())
      let after = disk.powerCut(seed: seed)
      seen.insert(
        ["x.tmp", "x"].map { name in
          switch after.contents(name) {
          case nil: "none"
          case []: "empty"
          case content: "whole"
          default: "torn"
          }
        })
    }
    return seen
  }

  private static func write(in root: Directory, syncs: Bool) throws {
    let file = try root.create("x.tmp")
    try file.write(content, content.indices, at: 0)
    if syncs { try file.sync() }
    try root.rename("x.tmp", to: "x", in: root)
  }

  @Test func `synced, renamed and its directory synced, a file is whole under its name`() throws {
    let seen = try Self.outcomes { root in
      try Self.write(in: root, syncs: true)
      try root.sync()
    }
    #expect(seen == [["none", "whole"]])
  }

  @Test func `without its directory's sync, a file may have any of its names, or none`() throws {
    let seen = try Self.outcomes { root in try Self.write(in: root, syncs: true) }
    #expect(seen == [["none", "whole"], ["whole", "none"], ["none", "none"]])
  }

  @Test func `without its own sync, a file may be empty or torn under its final name`() throws {
    let seen = try Self.outcomes { root in
      try Self.write(in: root, syncs: false)
      try root.sync()
    }
    #expect(seen == [["none", "empty"], ["none", "torn"], ["none", "whole"]])
  }

  @Test func `syncing the file system is enough for all of it`() throws {
    let seen = try Self.outcomes { root in
      try Self.write(in: root, syncs: false)
      try root.syncFileSystem()
    }
    #expect(seen == [["none", "whole"]])
  }

  @Test func `a failed sync drops the data, and the next one succeeds without it`() throws {
    let disk = SimulatedDisk()
    let file = try disk.root().create("x")
    try disk.root().sync()
    try file.write(Self.content, Self.content.indices, at: 0)
    disk.fail(.sync, with: .ioError)
    #expect(throws: Errno.ioError) { try file.sync() }
    try file.sync()
    #expect(disk.contents("x") == Self.content)
    #expect(disk.powerCut(seed: 1).contents("x") != Self.content)
  }

  @Test func `a killed process loses its descriptors and locks, and nothing else`() throws {
    let disk = SimulatedDisk()
    let root = disk.root()
    #expect(try root.lock())
    #expect(try !disk.root().lock())
    try Self.write(in: root, syncs: false)
    let after = disk.kill()
    #expect(after.contents("x") == Self.content)
    #expect(try after.root().lock())
    #expect(throws: Errno.ioError) { try root.sync() }
  }

  @Test func `a full disk takes what fits`() throws {
    var options = SimulatedDisk.Options()
    options.capacity = 100
    let disk = SimulatedDisk(options)
    let file = try disk.root().create("x")
    #expect(throws: Errno.noSpace) { try file.write(Self.content, Self.content.indices, at: 0) }
    #expect(disk.contents("x") == Array(Self.content.prefix(100)))
    #expect(try disk.root().facts().available == 0)
    try disk.root().remove("x")
    #expect(try disk.root().facts().available == 0)
    withExtendedLifetime(file) {}
  }

  @Test func `calls fail by kind and number, and are counted`() throws {
    let disk = SimulatedDisk()
    let root = disk.root()
    disk.fail(.makeDirectory, after: 1, with: .diskQuotaExceeded)
    try root.makeDirectory("a")
    #expect(throws: Errno.diskQuotaExceeded) { try root.makeDirectory("b") }
    try root.makeDirectory("b")
    disk.losePower(after: 1)
    try root.makeDirectory("c")
    #expect(throws: Errno.ioError) { try root.makeDirectory("d") }
    #expect(throws: Errno.ioError) { try root.entries() }
    #expect(disk.count(.makeDirectory) == 5)
    #expect(disk.paths == ["a/", "b/", "c/"])
  }

  @Test func `the same seed gives the same disk`() throws {
    func paths(_ seed: UInt64) throws -> [String] {
      let disk = SimulatedDisk()
      for number in 0..<20 { try disk.root().makeDirectory("\(number)") }
      return disk.powerCut(seed: seed).paths
    }
    for seed in 0..<20 as Range<UInt64> { #expect(try paths(seed) == paths(seed)) }
  }
}
