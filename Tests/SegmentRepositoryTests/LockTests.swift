import BorgFormat
import Disk
import DiskSimulation
import SystemPackage
import Testing

@testable import SegmentRepository

@Suite struct LockTests {
  @Test func `an exclusive lock is a file in a directory and a line in the roster`() throws {
    let disk = SimulatedDisk()
    let lock = try Party(disk.root()).exclusive()
    #expect(disk.paths == ["lock.exclusive/", "lock.exclusive/here@1.100-0", "lock.roster"])
    #expect(disk.text("lock.exclusive/here@1.100-0")?.isEmpty == true)
    #expect(disk.text("lock.roster") == #"{"exclusive": [["here@1", 100, 0]]}"#)
    #expect(lock.holdsExclusive)
    try lock.release()
    #expect(disk.paths == [])
    #expect(!lock.holdsExclusive)
  }

  @Test func `readers stand in the roster only`() throws {
    let disk = SimulatedDisk()
    let first = try Party(disk.root()).shared()
    let second = try Party(disk.root(), process: 101).shared()
    #expect(disk.paths == ["lock.roster"])
    #expect(disk.text("lock.roster") == #"{"shared": [["here@1", 100, 0], ["here@1", 101, 0]]}"#)
    #expect(!first.holdsExclusive)
    try first.release()
    #expect(disk.text("lock.roster") == #"{"shared": [["here@1", 101, 0]]}"#)
    try second.release()
    #expect(disk.paths == [])
  }

  @Test func `locks keep each other out, and say which one it was`() throws {
    let disk = SimulatedDisk()
    let writer = try Party(disk.root()).exclusive()
    let before = disk.paths
    let other = Party(disk.root(), process: 101)
    #expect(throws: exclusiveTimeout) { try other.exclusive() }
    #expect(throws: exclusiveTimeout) { try other.shared() }
    #expect(disk.paths == before)
    try writer.release()
    let reader = try other.shared()
    let roster = disk.text("lock.roster")
    #expect(throws: readersTimeout) { try Party(disk.root()).exclusive() }
    #expect(disk.paths == ["lock.roster"])
    #expect(disk.text("lock.roster") == roster)
    try reader.release()
    try Party(disk.root()).exclusive().release()
  }

  @Test func `a waiter gets the lock when it is free`() throws {
    let disk = SimulatedDisk()
    _ = try Party(disk.root()).exclusive()
    // The waiter looks again every 10 ms: at its third rename the lock goes.
    disk.before(.rename, after: 2) { try? Party(disk.root(), process: 102).lock().breakAll() }
    let waiter = try Party(disk.root(), process: 101).exclusive(.milliseconds(100))
    #expect(disk.text("lock.roster") == #"{"exclusive": [["here@1", 101, 0]]}"#)
    try waiter.release()
    #expect(disk.paths == [])
  }

  @Test func `a reader becomes the writer when it is alone`() throws {
    let disk = SimulatedDisk()
    let reader = try Party(disk.root()).shared()
    let other = try Party(disk.root(), process: 101).shared()
    #expect(throws: readersTimeout) { try reader.upgrade(wait: .zero) }
    #expect(!reader.holdsExclusive)
    #expect(disk.text("lock.roster") == #"{"shared": [["here@1", 100, 0], ["here@1", 101, 0]]}"#)
    try other.release()
    try reader.upgrade(wait: .zero)
    #expect(reader.holdsExclusive)
    #expect(disk.text("lock.roster") == #"{"exclusive": [["here@1", 100, 0]]}"#)
    try reader.upgrade(wait: .zero)
    try reader.release()
    #expect(disk.paths == [])
  }

  @Test func `giving back nothing is no error`() throws {
    let lock = Party(SimulatedDisk().root()).lock()
    try lock.release()
    try lock.acquireShared(wait: .zero)
    try lock.release()
    try lock.release()
  }

  // MARK: Breaking

  @Test func `a broken lock is noticed, and the next one's stays`() throws {
    let disk = SimulatedDisk()
    let writer = try Party(disk.root()).exclusive()
    try Party(disk.root(), process: 101).lock().breakAll()
    #expect(disk.paths == [])
    #expect(!writer.holdsExclusive)
    let next = try Party(disk.root(), process: 102).exclusive()
    let before = (disk.paths, disk.text("lock.roster"))
    #expect(throws: ServeError.notLocked("repo/lock.exclusive")) { try writer.release() }
    #expect((disk.paths, disk.text("lock.roster")) == before)
    #expect(next.holdsExclusive)
  }

  @Test func `a broken shared lock is given back without complaint`() throws {
    let disk = SimulatedDisk()
    let reader = try Party(disk.root()).shared()
    try Party(disk.root(), process: 101).lock().breakAll()
    try reader.release()
    #expect(disk.paths == [])
  }

  @Test func `breaking takes whatever there is`() throws {
    let disk = SimulatedDisk()
    for name in ["lock.roster", "lock.exclusive/elsewhere@2.7-0", "lock.exclusive/what is this", "config"] {
      try disk.install(at: name)
    }
    try Party(disk.root()).lock().breakAll()
    #expect(disk.paths == ["config"])
    try Party(disk.root()).lock().breakAll()
  }

  @Test func `breaking stale locks leaves those of others, and counts them`() throws {
    let disk = SimulatedDisk()
    try disk.install(
      #"{"shared": [["here@1", 50, 0], ["there@2", 50, 0], ["here@1", 150, 0]]}"#, at: "lock.roster")
    try disk.install(at: "lock.exclusive/here@1.51-0")
    #expect(try Party(disk.root()).lock().breakStale() == 2)
    #expect(disk.paths == ["lock.roster"])
    #expect(disk.text("lock.roster") == #"{"shared": [["there@2", 50, 0], ["here@1", 150, 0]]}"#)
    try disk.install(at: "lock.exclusive/there@2.51-0")
    #expect(try Party(disk.root()).lock().breakStale() == 3)
    try disk.install(at: "lock.exclusive/odd")
    #expect(try Party(disk.root()).lock().breakStale() == 4)
  }

  @Test func `breaking stale locks where there are none finds none`() throws {
    let disk = SimulatedDisk()
    #expect(try Party(disk.root()).lock().breakStale() == 0)
    #expect(disk.paths == [])
  }

  // MARK: The dead

  @Test func `the lock of a dead process is removed, with a word about it`() throws {
    let disk = SimulatedDisk()
    try disk.install(at: "lock.exclusive/here@1.99-0")
    try disk.install(#"{"exclusive": [["here@1", 99, 0]], "shared": [["here@1", 98, 0]]}"#, at: "lock.roster")
    let party = Party(disk.root())
    let lock = try party.exclusive()
    #expect(
      party.reporter.lines == [
        "warning Killed stale lock here@1.99-0.",
        "warning Removed stale shared roster lock for host here@1 pid 98 thread 0.",
        "warning Removed stale exclusive roster lock for host here@1 pid 99 thread 0.",
      ])
    #expect(disk.text("lock.roster") == #"{"exclusive": [["here@1", 100, 0]]}"#)
    try lock.release()
    #expect(disk.paths == [])
  }

  @Test(arguments: ["there@2.99-0", "here@1.150-0", "here@1.99-1", "here@1.99"])
  func `a lock that may be alive stays`(name: String) throws {
    let disk = SimulatedDisk()
    try disk.install(at: "lock.exclusive/\(name)")
    let party = Party(disk.root())
    #expect(throws: exclusiveTimeout) { try party.exclusive(.milliseconds(30)) }
    #expect(disk.paths == ["lock.exclusive/", "lock.exclusive/\(name)"])
    let complaint = "error Found malformed lock \(name) in repo/lock.exclusive. Please check/fix manually."
    #expect(party.reporter.lines == (name == "here@1.99" ? [complaint] : []))
  }

  @Test(arguments: [#"["there@2", 99, 0]"#, #"["here@1", 150, 0]"#, #"["here@1", 99, 1]"#])
  func `a reader that may be alive keeps writers out`(entry: String) throws {
    let disk = SimulatedDisk()
    try disk.install("{\"shared\": [\(entry)]}", at: "lock.roster")
    #expect(throws: readersTimeout) { try Party(disk.root()).exclusive() }
    #expect(disk.paths == ["lock.roster"])
  }

  @Test func `what a dead process of the same number left is no lock of ours, and no obstacle`() throws {
    let disk = SimulatedDisk()
    try disk.install(at: "lock.exclusive/here@1.100-0")
    try disk.install(
      #"{"exclusive": [["here@1", 100, 0]], "shared": [["here@1", 100, 0]]}"#, at: "lock.roster")
    let lock = Party(disk.root()).lock()
    #expect(!lock.holdsExclusive)
    try lock.acquireExclusive(wait: .zero)
    #expect(disk.text("lock.roster") == #"{"exclusive": [["here@1", 100, 0]]}"#)
    try lock.release()
    #expect(disk.paths == [])
  }

  @Test(arguments: ["", "{", "[]", "null", "{\"shared\": 7}", "\0\0\0"])
  func `a roster that cannot be read has nobody in it`(text: String) throws {
    let disk = SimulatedDisk()
    try disk.install(text, at: "lock.roster")
    try Party(disk.root()).exclusive().release()
    #expect(disk.paths == [])
  }

  // MARK: Sessions of one process

  @Test func `sessions of one process keep each other out`() throws {
    let disk = SimulatedDisk()
    let party = Party(disk.root())
    let writer = try party.exclusive()
    #expect(throws: exclusiveTimeout) { try party.exclusive() }
    #expect(throws: exclusiveTimeout) { try party.shared() }
    #expect(writer.holdsExclusive)
    try writer.release()
    let reader = try party.shared()
    #expect(throws: readersTimeout) { try party.exclusive() }
    try reader.release()
    try party.exclusive().release()
    #expect(disk.paths == [])
  }

  @Test func `readers of one process are one entry, until the last one goes`() throws {
    let disk = SimulatedDisk()
    let party = Party(disk.root())
    let readers = [try party.shared(), try party.shared()]
    #expect(disk.text("lock.roster") == #"{"shared": [["here@1", 100, 0]]}"#)
    #expect(throws: readersTimeout) { try readers[0].upgrade(wait: .zero) }
    try readers[0].release()
    #expect(disk.text("lock.roster") == #"{"shared": [["here@1", 100, 0]]}"#)
    try readers[1].upgrade(wait: .zero)
    try readers[1].release()
    #expect(disk.paths == [])
  }

  @Test func `a session whose lock another program broke does not keep the others out`() throws {
    let disk = SimulatedDisk()
    let party = Party(disk.root())
    let broken = try party.exclusive()
    try Party(disk.root(), process: 101).lock().breakAll()
    let next = try party.exclusive()
    #expect(next.holdsExclusive)
    #expect(!broken.holdsExclusive)
    #expect(throws: ServeError.notLocked("repo/lock.exclusive")) { try broken.release() }
    #expect(next.holdsExclusive)
    try next.release()
    let reader = try party.shared()
    try Party(disk.root(), process: 101).lock().breakAll()
    let writer = try party.exclusive()
    try reader.release()
    #expect(writer.holdsExclusive)
    try writer.release()
    #expect(disk.paths == [])
  }

  @Test func `a session may break the locks of its own process`() throws {
    let disk = SimulatedDisk()
    let party = Party(disk.root())
    let broken = try party.exclusive()
    try party.lock().breakAll()
    #expect(!broken.holdsExclusive)
    try party.exclusive().release()
    #expect(disk.paths == [])
  }

  // MARK: Waiting

  @Test(arguments: [Duration?.none, .seconds(1000)])
  func `W11: a hangup frees those who wait, and leaves nothing of theirs`(wait: Duration?) throws {
    let disk = SimulatedDisk()
    let writer = try Party(disk.root()).exclusive()
    let before = disk.paths
    let waiter = Party(disk.root(), process: 101)
    disk.before(.rename) { waiter.cancellation.cancel() }
    #expect(throws: ServeError.cancelled) { try waiter.exclusive(wait) }
    #expect(throws: ServeError.cancelled) { try waiter.shared(wait) }
    #expect(disk.paths == before)
    try writer.release()
    // What nobody contends for is to be had all the same, and given back.
    let reader = try waiter.shared()
    #expect(throws: ServeError.cancelled) { try Party.waiting(disk.root(), for: wait) }
    try reader.release()
    #expect(disk.paths == [])
  }

  @Test func `waiting looks as often as the original`() {
    let cancellation = Cancellation()
    #expect(LockWait(nil, cancellation).interval == .seconds(1))
    #expect(LockWait(.seconds(1), cancellation).interval == .milliseconds(100))
    #expect(LockWait(.seconds(10_000), cancellation).interval == .seconds(60))
  }

  // MARK: Failures

  @Test(arguments: [
    (Errno.readOnlyFileSystem, "[Errno 30] Read-only file system"),
    (.permissionDenied, "[Errno 13] Permission denied"), (.noSpace, "[Errno 28] No space left on device"),
  ])
  func `where no lock can be made, the system says why`(errno: Errno, text: String) throws {
    let disk = SimulatedDisk()
    disk.fail(.makeDirectory, with: errno, permanently: true)
    let failure = #expect(throws: ServeError.self) { try Party(disk.root()).exclusive(.seconds(1000)) }
    guard case .lockFailed("repo/lock.exclusive", let reason) = failure else {
      Issue.record("\(String(describing: failure))")
      return
    }
    #expect(reason.hasPrefix(text + ": 'repo/lock.exclusive."))
    #expect(reason.hasSuffix(".tmp'"))
    #expect(disk.paths == [])
  }

  @Test(arguments: [CallKind.create, .makeDirectory, .rename, .write, .open], [false, true])
  func `a lock that fails leaves nothing`(kind: CallKind, exclusive: Bool) throws {
    for passes in 0..<4 {
      let disk = SimulatedDisk()
      try disk.install(#"{"shared": []}"#, at: "lock.roster")
      disk.fail(kind, after: passes, with: .noSpace)
      let party = Party(disk.root())
      do {
        _ = exclusive ? try party.exclusive() : try party.shared()
      } catch {
        #expect(disk.paths == ["lock.roster"], "\(kind) \(passes) \(error)")
        guard case .lockFailed = error else {
          #expect(error == exclusiveTimeout)
          continue
        }
      }
      disk.heal()
      #expect(throws: Never.self) { try Party(disk.kill().root(), process: 101).lock().breakAll() }
    }
  }

  @Test func `a lock that cannot be noted down is given up`() throws {
    let disk = SimulatedDisk()
    disk.fail(.write, with: .noSpace)
    #expect(
      throws: ServeError.lockFailed(
        "repo/lock", reason: "[Errno 28] No space left on device: 'repo/lock.roster'")
    ) { try Party(disk.root()).exclusive() }
    #expect(disk.paths == [])
  }
}

extension Party {
  /// Waits for an exclusive lock after a hangup.
  static func waiting(_ root: Directory, for wait: Duration?) throws(ServeError) -> SegmentLock {
    let party = Party(root, process: 102)
    party.cancellation.cancel()
    return try party.exclusive(wait)
  }
}
