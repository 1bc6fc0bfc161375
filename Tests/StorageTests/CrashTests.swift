import TestKit
import BorgFormat
import Disk
import DiskSimulation
import Storage
import SystemPackage
import Testing

/// Random sessions on a disk that is taken away, and what the next session finds.
@Suite struct CrashTests {
  static let seeds: Range<UInt64> = 0..<300

  private static func store(on disk: SimulatedDisk, inBackground: Bool = false, levels: Int = 2) -> PosixStore
  {
    var options = PosixStore.Options()
    options.publishesInBackground = inBackground
    options.dataLevels = levels
    return PosixStore(root: disk.root(), label: "test", options: options)
  }

  private static func disk(seed: UInt64) -> SimulatedDisk {
    var options = SimulatedDisk.Options()
    options.syncsWhole = !seed.isMultiple(of: 2)
    return SimulatedDisk(options)
  }

  /// What is wrong after a crash: in the data, and with leftovers.
  private static func judge(_ model: CrashModel, _ disk: SimulatedDisk, levels: Int = 2) -> [String] {
    let store = Self.store(on: disk, levels: levels)
    var wrong = model.judge(store)
    // Hidden leftovers under a lock that nobody holds are the sweeper's to remove.
    wrong += disk.paths.filter { $0.contains("borg-serve.tmp") }.map { "left behind: \($0)" }
    do {
      try store.store(data(99), text("next"))
      try store.store(try named("archives/next"), text(""))
      try store.close()
    } catch {
      wrong.append("the next session cannot write: \(error)")
    }
    let last = Self.store(on: disk.powerCut(seed: 1), levels: levels)
    wrong += model.judge(last).map { "after a second cut: \($0)" }
    if (try? last.text(data(99))) != "next" { wrong.append("the next session's data is lost") }
    if (try? last.info(named("archives/next"))) != 0 { wrong.append("the next session's archive is lost") }
    return wrong
  }

  @Test(arguments: [false, true])
  func `a power cut at any call leaves all that was promised`(inBackground: Bool) {
    for seed in Self.seeds {
      var generator = SeededGenerator(seed: seed ^ 0xC0FFEE)
      let disk = Self.disk(seed: seed)
      let store = Self.store(on: disk, inBackground: inBackground, levels: Int(seed % 4))
      disk.losePower(after: Int.random(in: 0..<250, using: &generator))
      var model = CrashModel(seed: seed)
      model.run(50, in: store)
      let after = disk.powerCut(seed: seed)
      try? store.close()
      let wrong = Self.judge(model, after, levels: Int(seed % 4))
      #expect(wrong == [], "seed \(seed)")
    }
  }

  @Test(arguments: 0..<20)
  func `weakness 11: an acknowledged archive and all that it needs survive a power cut at once`(seed: UInt64)
    throws
  {
    let disk = Self.disk(seed: seed)
    let store = Self.store(on: disk, inBackground: seed.isMultiple(of: 3))
    for number in 0..<30 { try store.store(data(number), text("object \(number)")) }
    let archive = try named("archives/one")
    try store.store(archive, text(""))
    try store.store(data(99), text("later"))
    let after = Self.store(on: disk.powerCut(seed: seed))
    for number in 0..<30 { #expect(try after.text(data(number)) == "object \(number)") }
    #expect(try after.text(archive) == "")
    // It was the archive that kept them: what came behind it has no name yet.
    #expect(try after.text(data(99)) == nil)
  }

  /// The original never syncs, and may store an object just before, or while, ours does.
  @Test(arguments: [false, true], 0..<10)
  func `what somebody else stored, and counts as ours, is durable when a reference to it is`(
    isFirst: Bool, seed: UInt64
  ) throws {
    let disk = Self.disk(seed: seed)
    let store = Self.store(on: disk)
    // The session has seen to what others wrote before it.
    try store.store(try named("archives/earlier"), text(""))
    let path = data(1).nested(dataLevels: 2)
    if !isFirst { try store.store(data(1), text("ours"), keepsOther: true) }
    try disk.root().makeDirectories(try #require(path.parentName))
    let theirs = Array("theirs".utf8)
    try disk.root().create(path).write(theirs, theirs.indices, at: 0)
    if isFirst { #expect(try store.adopt(data(1))) }
    try store.store(try named("archives/one"), text(""))
    let after = Self.store(on: disk.powerCut(seed: seed))
    #expect(try after.text(try named("archives/one")) == "")
    #expect(try after.text(data(1)) == "theirs")
  }

  @Test func `a killed session leaves all that was promised, also if power fails later`() {
    for seed in Self.seeds {
      var generator = SeededGenerator(seed: seed ^ 0xDEAD)
      let disk = Self.disk(seed: seed)
      let store = Self.store(on: disk)
      disk.losePower(after: Int.random(in: 0..<250, using: &generator))
      var model = CrashModel(seed: seed)
      model.run(50, in: store)
      let after = disk.kill()
      try? store.close()
      #expect(Self.judge(model, after) == [], "seed \(seed)")
    }
  }

  @Test func `a power cut leaves all that was promised, whatever parts lie on other devices`() throws {
    for seed in Self.seeds where seed < 150 {
      var generator = SeededGenerator(seed: seed ^ 0xD15C)
      let disk = Self.disk(seed: seed / 4)
      let places = Namespace.allCases.map(\.rawValue) + [data(3).nested(dataLevels: 2).parentName ?? ""]
      for place in places where generator.oneIn(3) { try disk.mount(at: place) }
      let store = Self.store(on: disk, inBackground: seed.isMultiple(of: 2))
      disk.losePower(after: Int.random(in: 0..<300, using: &generator))
      var model = CrashModel(seed: seed)
      model.run(50, in: store)
      let after = disk.powerCut(seed: seed)
      try? store.close()
      #expect(Self.judge(model, after) == [], "seed \(seed)")
    }
  }

  @Test func `a call that fails once costs nothing that was promised`() {
    let errors: [Errno] = [.ioError, .noSpace, .readOnlyFileSystem, .diskQuotaExceeded, .tooManyOpenFiles]
    for seed in Self.seeds {
      var generator = SeededGenerator(seed: seed ^ 0xBEEF)
      let disk = Self.disk(seed: seed)
      let store = Self.store(on: disk)
      let error = errors.randomElement(using: &generator) ?? .ioError
      disk.fail(after: Int.random(in: 0..<250, using: &generator), with: error)
      var model = CrashModel(seed: seed)
      model.run(50, in: store)
      let after = seed.isMultiple(of: 3) ? disk.kill() : disk.powerCut(seed: seed)
      try? store.close()
      #expect(Self.judge(model, after) == [], "seed \(seed)")
    }
  }

  @Test func `a sync that fails ends all promises, and takes none back`() {
    for seed in Self.seeds {
      var generator = SeededGenerator(seed: seed ^ 0xF00D)
      let disk = Self.disk(seed: seed)
      let store = Self.store(on: disk)
      let kind: CallKind = generator.oneIn(3) ? .syncFileSystem : .sync
      disk.fail(kind, after: Int.random(in: 0..<30, using: &generator), with: .ioError)
      var model = CrashModel(seed: seed)
      model.run(60, in: store)
      let after = disk.powerCut(seed: seed)
      try? store.close()
      #expect(Self.judge(model, after) == [], "seed \(seed)")
    }
  }

  @Test func `a full disk leaves nothing half-written, and what was promised`() {
    for seed in Self.seeds {
      var generator = SeededGenerator(seed: seed ^ 0xF111)
      let disk = Self.disk(seed: seed)
      disk.options.capacity = Int.random(in: 0..<2000, using: &generator)
      let store = Self.store(on: disk)
      var model = CrashModel(seed: seed)
      model.run(60, in: store)
      let after = seed.isMultiple(of: 2) ? disk.kill() : disk.powerCut(seed: seed)
      try? store.close()
      after.options.capacity = .max
      #expect(Self.judge(model, after) == [], "seed \(seed)")
    }
  }

  @Test func `a repository survives one crash after the other`() throws {
    for seed in Self.seeds where seed < 60 {
      var generator = SeededGenerator(seed: seed ^ 0xABBA)
      var disk = Self.disk(seed: seed)
      var model = CrashModel(seed: seed)
      for round in 0..<6 {
        let store = Self.store(on: disk)
        disk.losePower(after: Int.random(in: 20..<120, using: &generator))
        model.run(30, in: store)
        let isKilled = Bool.random(using: &generator)
        let after = isKilled ? disk.kill() : disk.powerCut(seed: seed + UInt64(round))
        try? store.close()
        let next = Self.store(on: after)
        let wrong = model.judge(next)
        #expect(wrong == [], "seed \(seed), round \(round)")
        guard wrong.isEmpty else { break }
        try model.adopt(next, isDurable: !isKilled)
        try next.close()
        disk = after
      }
    }
  }

  @Test func `a clean close keeps everything and leaves no trace`() throws {
    for seed in Self.seeds where seed < 50 {
      let disk = Self.disk(seed: seed)
      let store = Self.store(on: disk, inBackground: seed.isMultiple(of: 3))
      var model = CrashModel(seed: seed)
      model.run(50, in: store)
      try store.barrier(durable: true)
      try store.close()
      #expect(disk.paths.filter { $0.contains("tmp") } == [])
      let next = Self.store(on: disk.powerCut(seed: seed))
      #expect(model.judge(next) == [], "seed \(seed)")
    }
  }
}
