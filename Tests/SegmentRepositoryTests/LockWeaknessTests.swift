import BorgFormat
import Disk
import DiskSimulation
import Glibc
import SystemPackage
import Testing

@testable import SegmentRepository

@Suite struct LockWeaknessTests {
  @Test func `W19: what killed waiters left is swept, what may be alive stays`() throws {
    let disk = SimulatedDisk()
    let stale = ["aaaaaaaa/here@1.99-0", "bbbbbbbb/here@1.100-0", "cccccccc/here@1.98-00"]
    let alive = ["dddddddd/here@1.150-0", "eeeeeeee/there@2.99-0", "ffffffff/here@1.99-1", "gggggggg/odd"]
    for name in stale + alive {
      let parts = name.split(separator: "/")
      try disk.install(at: "lock.exclusive.\(parts[0]).tmp/\(parts[1])")
    }
    let root = disk.root()
    // Its owner may be about to put a file into it.
    try root.makeDirectory("lock.exclusive.hhhhhhhh.tmp")
    try Party(root).shared().release()
    #expect(
      disk.paths.filter { $0.hasSuffix("/") }.map { $0.split(separator: ".")[2] } == [
        "dddddddd", "eeeeeeee", "ffffffff", "gggggggg", "hhhhhhhh",
      ])
    #expect(disk.paths.count == 9)
  }

  @Test func `W19: the roster is replaced in one step, and whole at any time`() throws {
    let disk = SimulatedDisk()
    let old = #"{"shared": [["there@2", 7, 0]]}"#
    try disk.install(old, at: "lock.roster")
    let new = #"{"shared": [["there@2", 7, 0], ["here@1", 100, 0]]}"#
    var seen: Set<String?> = []
    for call in 0..<40 {
      let disk = SimulatedDisk()
      try disk.install(old, at: "lock.roster")
      disk.losePower(after: call)
      _ = try? Party(disk.root()).shared()
      seen.insert(disk.text("lock.roster"))
    }
    #expect(seen == [old, new])
  }

  @Test func `W19: whatever a killed process leaves, the next one cleans away`() throws {
    var call = 0
    var isFinished = false
    while !isFinished {
      for process in [99, 100] {
        let disk = SimulatedDisk()
        disk.losePower(after: call)
        let party = Party(disk.root(), process: process)
        isFinished = (try? Self.useBoth(party)) != nil
        let found = disk.kill()
        // All that a Borg would have to understand, it does.
        for path in found.paths where path.hasPrefix("lock.exclusive/") && !path.hasSuffix("/") {
          let holder = LockHolder(fileName: String(path.dropFirst("lock.exclusive/".count)))
          #expect(holder == LockHolder(host: "here@1", process: process))
        }
        let root = found.root()
        let isEmptyYet = found.paths.contains { name in
          name.hasSuffix("/") && !found.paths.contains { $0.hasPrefix(name) && $0 != name }
        }
        // An empty directory has to be old; see the tests on a real disk.
        if isEmptyYet { continue }
        let next = try Party(root).exclusive()
        try next.release()
        #expect(found.paths == [], "call \(call)")
      }
      call += 1
    }
    #expect(call > 30)
  }

  private static func useBoth(_ party: Party) throws(ServeError) {
    try party.shared().release()
    try party.exclusive().release()
  }

  @Test func `a power cut leaves nothing that keeps others out, but an empty directory for a while`() throws {
    for call in stride(from: 3, through: 45, by: 3) {
      for seed in 0..<8 as Range<UInt64> {
        let disk = SimulatedDisk()
        disk.losePower(after: call)
        _ = try? Party(disk.root(), process: 99).exclusive().release()
        let found = disk.powerCut(seed: seed)
        let root = found.root()
        try? root.removeDirectory("lock.exclusive")
        _ = try Party(root).exclusive()
      }
    }
  }

  @Test func `W20: the directory that 1.1 has just made is not taken from it`() throws {
    let disk = SimulatedDisk()
    let root = disk.root()
    try root.makeDirectory("lock.exclusive")
    #expect(throws: exclusiveTimeout) { try Party(root).exclusive(.milliseconds(20)) }
    #expect(disk.paths == ["lock.exclusive/"])
    _ = try root.create("lock.exclusive/here@1.101-0")
    #expect(throws: exclusiveTimeout) { try Party(root).exclusive(.milliseconds(20)) }
    #expect(disk.paths == ["lock.exclusive/", "lock.exclusive/here@1.101-0"])
  }

  @Test func `W20: not even if 1.1 makes it between our look and our rename`() throws {
    let disk = SimulatedDisk()
    let root = disk.root()
    disk.before(.rename) { try? root.makeDirectory("lock.exclusive") }
    #expect(throws: exclusiveTimeout) { try Party(root).exclusive() }
    #expect(disk.paths == ["lock.exclusive/"])
  }

  @Test func `W20: a lock with another's file in it is nobody's`() throws {
    let disk = SimulatedDisk()
    let root = disk.root()
    // As on file systems where a rename replaces what is empty, whatever it is told.
    disk.after(.rename) { _ = try? root.create("lock.exclusive/here@1.101-0") }
    #expect(throws: exclusiveTimeout) { try Party(root).exclusive() }
    #expect(disk.paths == ["lock.exclusive/", "lock.exclusive/here@1.101-0"])
  }

  @Test func `W20: a process that was stopped for long while it took the lock is noticed`() throws {
    let disk = SimulatedDisk()
    let root = disk.root()
    let lock = try Party(root).exclusive()
    _ = try root.create("lock.exclusive/here@1.101-0")
    #expect(!lock.holdsExclusive)
    try lock.release()
    #expect(disk.paths == ["lock.exclusive/", "lock.exclusive/here@1.101-0"])
  }

  @Test(arguments: [(-60, true), (-5, false), (60, false)])
  func `W20: an empty directory is removed once it is old, and no earlier`(age: Int, isTaken: Bool) throws {
    let place = try TemporaryDirectory()
    let root = try place.open()
    for name in ["lock.exclusive", "lock.exclusive.abcdefgh.tmp"] {
      try root.makeDirectory(name)
      try setAge(age, of: "\(place.path.text)/\(name)")
    }
    guard isTaken else {
      #expect(throws: exclusiveTimeout) { try Party(root).exclusive() }
      #expect(try root.entries().count == 2)
      return
    }
    try Party(root).exclusive().release()
    #expect(try root.entries() == [])
  }

  /// Sets when a file was changed last: seconds from now.
  private func setAge(_ age: Int, of path: String) throws {
    let now = Int(Host.now() / 1000)
    let times = [timespec(tv_sec: now + age, tv_nsec: 0), timespec(tv_sec: now + age, tv_nsec: 0)]
    try #require(unsafe utimensat(AT_FDCWD, path, times, 0) == 0)
  }
}
