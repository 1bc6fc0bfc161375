import BorgFormat
import Disk
import DiskSimulation
import SystemPackage
import Testing

@testable import SegmentRepository

@Suite struct ConfigFileTests {
  private static let old = """
    [repository]
    version = 1
    segments_per_dir = 1000
    max_segment_size = 524288000
    append_only = 0
    id = \(String(repeating: "ab", count: 32))
    flavour = vanilla
    key = old key


    """
  private static let erasedLate = "warning Old config file not securely erased on previous config update"

  private let reporter = NotedLines()

  private func file(_ disk: SimulatedDisk) -> ConfigFile {
    ConfigFile(root: disk.root(), label: "repo", reporter: reporter)
  }

  /// A disk with a config, and the config as it is to become.
  private func changed() throws -> (SimulatedDisk, RepositoryConfig) {
    let disk = SimulatedDisk()
    try disk.install(Self.old, at: "config")
    var config = try file(disk).load()
    try config.setKey(Array("new key\nof two lines".utf8))
    return (disk, config)
  }

  @Test func `a config is read and written as the original does`() throws {
    let (disk, config) = try changed()
    try file(disk).save(config, toleratesDenial: false)
    #expect(disk.paths == ["config"])
    let new = Self.old.replacing("old key", with: "new key\n\tof two lines")
    #expect(disk.text("config") == new)
    #expect(try file(disk).load().key == Array("new key\nof two lines".utf8))
    #expect(reporter.lines == [])
  }

  @Test(arguments: [
    ("", "no repository section found"), ("[other]\n", "no repository section found"),
    ("[repository]\nversion = 1\nmax_segment_size = 4273995776\n", "max_segment_size >= 4273995776"),
  ])
  func `what cannot be used is refused in the original's words`(text: String, detail: String) throws {
    let disk = SimulatedDisk()
    try disk.install(text, at: "config")
    #expect(throws: ServeError.repositoryConfigInvalid("repo", detail: detail)) { try file(disk).load() }
  }

  @Test func `a repository of another version is named by it`() throws {
    let disk = SimulatedDisk()
    try disk.install("[repository]\nversion = 2\n", at: "config")
    #expect(throws: ServeError.repositoryVersion("repo", 2)) { try file(disk).load() }
  }

  @Test func `without a config it is no repository`() {
    #expect(throws: ServeError.repositoryInvalid("repo")) { try file(SimulatedDisk()).load() }
  }

  @Test func `the old config is overwritten before it is gone`() throws {
    let (disk, config) = try changed()
    let old = SeenBytes()
    disk.before(.unlink) { old.note(disk.contents("config.old")) }
    try file(disk).save(config, toleratesDenial: false)
    #expect(old.bytes?.count == Self.old.utf8.count)
    #expect(old.bytes != Array(Self.old.utf8))
  }

  @Test func `a file that has another name elsewhere is not overwritten`() throws {
    let (disk, config) = try changed()
    try disk.root().link("config", to: "copy")
    try file(disk).save(config, toleratesDenial: false)
    #expect(disk.paths == ["config", "copy"])
    #expect(disk.text("copy") == Self.old)
  }

  @Test func `an old config that was left behind is erased first`() throws {
    let (disk, config) = try changed()
    try disk.install("older", at: "config.old")
    try file(disk).save(config, toleratesDenial: false)
    #expect(disk.paths == ["config"])
    #expect(reporter.lines == [Self.erasedLate])
  }

  @Test(arguments: [
    Errno.tooManyLinks, .noFunction, .notPermitted, .permissionDenied, .notSupported, .ioError,
  ])
  func `where files have one name, the old config is not erased`(errno: Errno) throws {
    let (disk, config) = try changed()
    disk.fail(.link, with: errno)
    try file(disk).save(config, toleratesDenial: false)
    #expect(disk.paths == ["config"])
    #expect(
      reporter.lines == [
        "warning Failed to securely erase old repository config file (hardlinks not supported). "
          + "Old repokey data, if any, might persist on physical storage."
      ])
  }

  @Test func `a missing right is an error, or only worth a word`() throws {
    let (disk, config) = try changed()
    disk.fail(.create, with: .permissionDenied, permanently: true)
    let failure = SystemFailure("write", "repo/config", .permissionDenied)
    #expect(throws: ServeError.system(failure)) { try file(disk).save(config, toleratesDenial: false) }
    try file(disk).save(config, toleratesDenial: true)
    #expect(
      reporter.lines == [
        "warning Permission denied: Failed writing to 'repo/config'. "
          + "This is expected when working on read-only repositories."
      ])
    #expect(disk.paths == ["config"])
    #expect(disk.text("config") == Self.old)
  }

  @Test(arguments: [CallKind.create, .write, .sync, .rename])
  func `a replacement that fails leaves the old config and nothing else`(kind: CallKind) throws {
    let (disk, config) = try changed()
    disk.fail(kind, with: .noSpace)
    #expect(throws: ServeError.self) { try file(disk).save(config, toleratesDenial: true) }
    #expect(disk.paths == ["config"])
    #expect(disk.text("config") == Self.old)
  }

  @Test func `a new config that may not be durable leaves the old one whole`() throws {
    let (disk, config) = try changed()
    // The first sync is that of the file, the second that of its name.
    disk.fail(.sync, after: 1, with: .ioError)
    #expect(throws: ServeError.self) { try file(disk).save(config, toleratesDenial: false) }
    #expect(disk.paths == ["config", "config.old"])
    #expect(disk.text("config.old") == Self.old)
    try file(disk).save(config, toleratesDenial: false)
    #expect(disk.paths == ["config"])
    #expect(reporter.lines == [Self.erasedLate])
  }

  @Test func `a crash at any call leaves the old config or the new one`() throws {
    var call = 0
    var isFinished = false
    while !isFinished {
      for seed in 0..<12 as Range<UInt64> {
        let (disk, config) = try changed()
        let file = file(disk)
        // As a save leaves it that was killed before it could erase.
        if seed.isMultiple(of: 2) { try disk.install("older", at: "config.old") }
        let before = disk.failableCount
        disk.losePower(after: call)
        isFinished = (try? file.save(config, toleratesDenial: false)) != nil
        #expect(disk.failableCount > before)
        let next = seed == 0 ? disk.kill() : disk.powerCut(seed: seed)
        let found = next.text("config")
        let new = String(decoding: config.encode(), as: UTF8.self)
        #expect(isFinished ? found == new : [Self.old, new].contains(found), "call \(call), seed \(seed)")
        // And the next change works, and loses nothing if the power fails in it as well.
        next.losePower(after: call % 7)
        _ = try? self.file(next).save(config, toleratesDenial: false)
        let last = next.powerCut(seed: seed + 100).text("config")
        #expect([Self.old, new].contains(last), "call \(call), seed \(seed), again")
      }
      call += 1
    }
    #expect(call > 10)
  }
}
