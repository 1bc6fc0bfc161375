import BorgFormat
import Disk
import DiskSimulation
import Glibc
import SystemPackage
import Testing

@testable import SegmentRepository

@Suite struct SegmentCreationTests {
  private func create(on disk: SimulatedDisk, _ options: SegmentRepository.CreationOptions = .init())
    throws(ServeError)
  {
    try SegmentRepository.create(in: disk.root(), label: "repo", options)
  }

  private func config(_ disk: SimulatedDisk) throws(ServeError) -> RepositoryConfig {
    try ConfigFile(root: disk.root(), label: "repo", reporter: NotedLines()).load()
  }

  @Test func `a new repository is what the original writes, byte for byte`() throws {
    let disk = SimulatedDisk()
    try create(on: disk)
    #expect(disk.paths == ["README", "config", "data/"])
    let readme = "This is a Borg Backup repository.\nSee https://borgbackup.readthedocs.io/\n"
    #expect(disk.text("README") == readme)
    let id = try Hex.string(config(disk).id)
    #expect(id.count == 64)
    #expect(
      disk.text("config") == """
        [repository]
        version = 1
        segments_per_dir = 1000
        max_segment_size = 524288000
        append_only = 0
        storage_quota = 0
        additional_free_space = 0
        id = \(id)


        """)
  }

  @Test func `what it is to be stands in its config`() throws {
    let disk = SimulatedDisk()
    var options = SegmentRepository.CreationOptions()
    (options.appendOnly, options.storageQuota) = (true, 10_000_000)
    try create(on: disk, options)
    let config = try config(disk)
    #expect(config.appendOnly)
    #expect(config.storageQuota == 10_000_000)
  }

  @Test func `each repository has an id of its own`() throws {
    var ids: Set<[UInt8]> = []
    for _ in 0..<8 {
      let disk = SimulatedDisk()
      try create(on: disk)
      ids.insert(try config(disk).id)
    }
    #expect(ids.count == 8)
  }

  @Test func `of two that create at once one is told so, and the other's is whole`() throws {
    let disk = SimulatedDisk()
    try create(on: disk)
    let before = disk.text("config")
    #expect(throws: ServeError.pathAlreadyExists("repo")) { try create(on: disk) }
    #expect(disk.paths == ["README", "config", "data/"])
    #expect(disk.text("config") == before)
  }

  @Test(arguments: [CallKind.create, .write, .sync, .rename, .makeDirectory])
  func `a creation that fails leaves nothing`(kind: CallKind) {
    for passes in 0..<5 {
      let disk = SimulatedDisk()
      disk.fail(kind, after: passes, with: .noSpace)
      guard (try? create(on: disk)) == nil else { continue }
      #expect(disk.paths == [], "\(kind) \(passes)")
    }
  }

  @Test func `a crash at any call leaves a whole repository or none`() throws {
    var call = 0
    var isFinished = false
    while !isFinished {
      for seed in 0..<12 as Range<UInt64> {
        let disk = SimulatedDisk()
        disk.losePower(after: call)
        isFinished = (try? create(on: disk)) != nil
        let next = seed == 0 ? disk.kill() : disk.powerCut(seed: seed)
        if (try? config(next)) == nil {
          #expect(!isFinished, "call \(call), seed \(seed)")
          continue
        }
        #expect(next.text("README")?.utf8.count == 73)
        #expect(next.paths.contains("data/"))
      }
      call += 1
    }
    #expect(call > 8)
  }
}

@Suite struct SegmentRemovalTests {
  @Test func `everything goes, and the config before all else`() throws {
    let disk = SimulatedDisk()
    for name in [
      "README", "config", "data/0/0", "data/0/1", "index.1", "nonce", "notes/mine", "lock.roster",
      "lock.exclusive/here@1.100-0",
    ] { try disk.install("x", at: name) }
    try SegmentRepository.removeTree(of: disk.root(), label: "repo")
    #expect(disk.paths == [])
    let changes = disk.calls.filter { [.unlink, .sync, .removeDirectory].contains($0.kind) }
    #expect(changes.map { "\($0.kind) \($0.names)" }.prefix(2) == ["unlink config", "sync "])
    let removed = disk.calls.filter { $0.kind == .unlink || $0.kind == .removeDirectory }.map(\.names)
    #expect(
      Set(removed.suffix(3)) == ["here@1.100-0", "lock.exclusive", "lock.roster"]
        || Set(removed.suffix(4)) == ["here@1.100-0", "lock.exclusive", "lock.roster"])
  }

  @Test func `what cannot be removed is named, and the rest is gone`() throws {
    let disk = SimulatedDisk()
    for name in ["config", "data/0/0", "index.1", "nonce"] { try disk.install("x", at: name) }
    disk.fail(.unlink, after: 1, with: .permissionDenied)
    #expect(throws: ServeError.system(SystemFailure("remove", "repo", .permissionDenied))) {
      try SegmentRepository.removeTree(of: disk.root(), label: "repo")
    }
    #expect(!disk.paths.contains("config"))
    #expect(disk.paths.filter { !$0.hasSuffix("/") }.count == 1)
  }

  @Test func `a config that cannot be removed keeps all`() throws {
    let disk = SimulatedDisk()
    for name in ["config", "data/0/0"] { try disk.install("x", at: name) }
    disk.fail(.unlink, with: .readOnlyFileSystem)
    #expect(throws: ServeError.self) { try SegmentRepository.removeTree(of: disk.root(), label: "repo") }
    #expect(disk.paths == ["config", "data/", "data/0/", "data/0/0"])
  }

  @Test func `links are removed, not followed`() throws {
    let (place, elsewhere) = (try TemporaryDirectory(), try TemporaryDirectory())
    let (root, other) = (try place.open(), try elsewhere.open())
    _ = try other.create("precious")
    try #require(unsafe symlink(elsewhere.path.text, "\(place.path.text)/data") == 0)
    try #require(unsafe symlink("\(elsewhere.path.text)/precious", "\(place.path.text)/config") == 0)
    try SegmentRepository.removeTree(of: root, label: "repo")
    #expect(try root.entries() == [])
    #expect(try other.entries() == ["precious"])
  }
}

/// Bytes that a hook saw. A class because the hook outlives its caller.
final class SeenBytes: Sendable {
  private let seen = Monitor<[UInt8]?>(nil)
  func note(_ bytes: [UInt8]?) { seen.update { $0 = bytes } }
  var bytes: [UInt8]? { seen.withLock { $0 } }
}
