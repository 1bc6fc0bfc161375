import BorgFormat
import Disk
import DiskSimulation
import SystemPackage
import Testing

@testable import SegmentRepository

@Suite struct NonceTests {
  private let reporter = NotedLines()

  private func file(_ disk: SimulatedDisk) -> NonceFile {
    NonceFile(root: disk.root(), label: "repo", reporter: reporter)
  }

  @Test func `a nonce is 16 digits`() throws {
    let disk = SimulatedDisk()
    #expect(try file(disk).load() == nil)
    try file(disk).save(0xAB_CDEF, toleratesDenial: false)
    #expect(disk.text("nonce") == "0000000000abcdef")
    #expect(disk.paths == ["nonce"])
    #expect(try file(disk).load() == 0xAB_CDEF)
    try file(disk).save(.max, toleratesDenial: false)
    #expect(disk.text("nonce") == "ffffffffffffffff")
  }

  @Test func `an end of line is no harm`() throws {
    let disk = SimulatedDisk()
    try disk.install("0000000000000010\n", at: "nonce")
    #expect(try file(disk).load() == 16)
  }

  @Test(arguments: ["", "10", "zz00000000000010", "00000000000000100"])
  func `anything else is refused`(text: String) throws {
    let disk = SimulatedDisk()
    try disk.install(text, at: "nonce")
    let failure = #expect(throws: ServeError.self) { try file(disk).load() }
    guard case .unsupported(let reason) = failure else {
      Issue.record("\(String(describing: failure))")
      return
    }
    #expect(reason.hasPrefix("Repository has an invalid nonce file: "))
  }

  @Test func `a missing right is an error, or only worth a word`() throws {
    let disk = SimulatedDisk()
    disk.fail(.create, with: .notPermitted, permanently: true)
    let failure = SystemFailure("write", "repo/nonce", .notPermitted)
    #expect(throws: ServeError.system(failure)) { try file(disk).save(1, toleratesDenial: false) }
    #expect(reporter.lines == [])
    try file(disk).save(1, toleratesDenial: true)
    #expect(
      reporter.lines == [
        "warning Operation not permitted: Failed writing to 'repo/nonce'. "
          + "This is expected when working on read-only repositories."
      ])
  }

  @Test(arguments: [CallKind.create, .write, .sync, .rename])
  func `a replacement that fails leaves the old nonce and nothing else`(kind: CallKind) throws {
    let disk = SimulatedDisk()
    try disk.install("0000000000000010", at: "nonce")
    disk.fail(kind, with: .noSpace)
    #expect(throws: ServeError.self) { try file(disk).save(32, toleratesDenial: true) }
    #expect(disk.paths == ["nonce"])
    #expect(try file(disk).load() == 16)
  }

  @Test func `a crash at any call leaves the old nonce or the new one`() throws {
    var isFinished = false
    for call in 0..<12 where !isFinished {
      for seed in 0..<12 as Range<UInt64> {
        let disk = SimulatedDisk()
        try disk.install("0000000000000010", at: "nonce")
        disk.losePower(after: call)
        isFinished = (try? file(disk).save(32, toleratesDenial: false)) != nil
        let next = seed == 0 ? disk.kill() : disk.powerCut(seed: seed)
        let found = try file(next).load()
        #expect(isFinished ? found == 32 : found == 16 || found == 32, "call \(call), seed \(seed)")
      }
    }
    #expect(isFinished)
  }
}
