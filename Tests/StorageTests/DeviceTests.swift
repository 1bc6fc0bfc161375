import BorgFormat
import Disk
import DiskSimulation
import Storage
import SystemPackage
import Testing

/// Repositories of which a part lies on another file system, where somebody linked or mounted one.
@Suite struct DeviceTests {
  private static let seeds: Range<UInt64> = 0..<40

  private static func store(on disk: SimulatedDisk, inBackground: Bool = false) -> PosixStore {
    var options = PosixStore.Options()
    options.publishesInBackground = inBackground
    return PosixStore(root: disk.root(), label: "test", options: options)
  }

  /// Long enough to be torn.
  private static func content(_ number: Int) -> String { String(repeating: "object \(number) ", count: 20) }

  private static func storeObjects(_ numbers: Range<Int>, in store: PosixStore) throws {
    for number in numbers { try store.store(data(number), text(content(number))) }
  }

  /// What is missing or not whole after a power cut, in some of the states that are possible.
  private static func damage(_ numbers: Range<Int>, _ names: [String], after disk: SimulatedDisk) throws
    -> [String]
  {
    try seeds.flatMap { seed in
      let next = store(on: disk.powerCut(seed: seed))
      let objects = try numbers.filter { try next.text(data($0)) != content($0) }.map { "object \($0)" }
      let others = try names.filter { try next.text(named($0)) != "x" }
      return (objects + others).map { "\($0), seed \(seed)" }
    }
  }

  /// Few objects are synced each, many by one `syncfs`; a session's first reference brings one in any case.
  @Test(arguments: [3, 20], [false, true])
  func `objects that were staged before a namespace was mounted are synced before they get names`(
    count: Int, isFirst: Bool
  ) throws {
    for inBackground in [false, true] {
      let disk = SimulatedDisk()
      let store = Self.store(on: disk, inBackground: inBackground)
      if !isFirst { try store.store(named("keys/repokey"), text("x")) }
      try Self.storeObjects(0..<count, in: store)
      try disk.mount(at: "archives")
      try store.store(named("archives/a"), text("x"))
      #expect(try Self.damage(0..<count, ["archives/a"], after: disk) == [])
    }
  }

  @Test(arguments: [3, 20])
  func `no name stands over bytes that were not synced, though a mount came in between`(count: Int) throws {
    var isFinished = false
    var call = 0
    while !isFinished {
      let disk = SimulatedDisk()
      let store = Self.store(on: disk)
      try Self.storeObjects(0..<count, in: store)
      try disk.mount(at: "archives")
      disk.losePower(after: call)
      isFinished = (try? store.store(named("archives/a"), text("x"))) != nil
      for seed in 0..<8 as Range<UInt64> {
        let next = Self.store(on: disk.powerCut(seed: seed))
        let isAcknowledged = try next.info(named("archives/a")) != nil
        for number in 0..<count {
          let found = try next.text(data(number))
          #expect(found == Self.content(number) || !isAcknowledged && found == nil, "call \(call), \(seed)")
        }
      }
      call += 1
    }
  }

  @Test(arguments: Namespace.allCases, [3, 20])
  func `with a namespace elsewhere from the start, what was acknowledged survives`(
    namespace: Namespace, count: Int
  ) throws {
    let disk = SimulatedDisk()
    try disk.mount(at: namespace.rawValue)
    let store = Self.store(on: disk)
    try Self.storeObjects(0..<count, in: store)
    let names = ["archives/a", "cache/c", "config/manifest", "keys/repokey"]
    for name in names { try store.store(named(name), text("x")) }
    #expect(try Self.damage(0..<count, names, after: disk) == [])
  }

  @Test(arguments: Namespace.allCases)
  func `where a namespace lies elsewhere, no syncfs is relied on`(namespace: Namespace) throws {
    let disk = SimulatedDisk()
    try disk.mount(at: namespace.rawValue)
    let store = Self.store(on: disk)
    disk.fail(.syncFileSystem, with: .notSupported, permanently: true)
    try Self.storeObjects(0..<20, in: store)
    try store.barrier(durable: true)
    #expect(disk.count(.syncFileSystem) == 0)
    #expect(try Self.damage(0..<20, [], after: disk) == [])
  }

  // MARK: Copies

  /// All of `data/`, or one of its directories.
  @Test(arguments: ["data", String(data(1).nested(dataLevels: 2).prefix(7))], [2, 20])
  func `the directory of a name that was copied to is synced before the reference is acknowledged`(
    mountPoint: String, count: Int
  ) throws {
    let disk = SimulatedDisk()
    let store = Self.store(on: disk)
    try Self.storeObjects(0..<count, in: store)
    try disk.mount(at: mountPoint)
    try store.store(named("archives/a"), text("x"))
    #expect(disk.paths.contains(data(1).nested(dataLevels: 2)))
    #expect(try Self.damage(0..<count, ["archives/a"], after: disk) == [])
    try store.close()
    #expect(!disk.paths.contains { $0.hasSuffix(".tmp") })
  }

  @Test func `names that a failed syncfs left behind are no longer promised after a mount, either`() throws {
    let disk = SimulatedDisk()
    let store = Self.store(on: disk)
    try Self.storeObjects(0..<20, in: store)
    // So many directories change that their names are not noted any more.
    try store.barrier(durable: false)
    try disk.mount(at: "archives")
    disk.fail(.syncFileSystem, with: .ioError)
    #expect(throws: ServeError.self) { try store.store(named("archives/a"), text("x")) }
    #expect(throws: ServeError.self) { try store.barrier(durable: true) }
    #expect(disk.contents("archives/a") == nil)
  }

  @Test func `a copy that fails leaves nothing beside the name, and ends all promises`() throws {
    for kind in [CallKind.create, .read, .write, .sync, .rename] {
      let disk = SimulatedDisk()
      let store = Self.store(on: disk)
      try store.store(data(1), text(Self.content(1)))
      try disk.mount(at: "data")
      // Before it come the object's own sync and the rename that shows the need to copy.
      disk.fail(kind, after: kind == .sync || kind == .rename ? 1 : 0, with: .ioError)
      if kind == .rename { disk.fail(kind, after: 2, with: .ioError) }
      #expect(throws: ServeError.self, "\(kind)") { try store.barrier(durable: false) }
      #expect(throws: ServeError.self, "\(kind)") { try store.store(named("archives/a"), text("x")) }
      #expect(!disk.paths.contains { $0.hasPrefix("data/") && !$0.hasSuffix("/") }, "\(kind)")
      #expect(try store.text(data(1)) == Self.content(1), "\(kind)")
    }
  }

  // MARK: What others left

  private static func untrustedDisk() -> SimulatedDisk {
    var options = SimulatedDisk.Options()
    options.syncsWhole = false
    return SimulatedDisk(options)
  }

  @Test func `where syncfs is not trusted, a session's first reference tries one all the same`() throws {
    let disk = Self.untrustedDisk()
    let store = Self.store(on: disk)
    try store.store(data(1), text("x"))
    try store.store(named("archives/a"), text("x"))
    let calls = disk.calls.filter { $0.kind == .syncFileSystem || $0.names.hasSuffix("archives/a") }
    #expect(calls.map(\.kind) == [.syncFileSystem, .rename])
    try store.store(named("archives/b"), text("x"))
    try store.close()
    #expect(disk.count(.syncFileSystem) == 1)
  }

  @Test func `where syncfs is not trusted, its failure is none of the session's, but its own bytes are`()
    throws
  {
    let disk = Self.untrustedDisk()
    let store = Self.store(on: disk)
    try store.store(data(1), text(Self.content(1)))
    disk.fail(.syncFileSystem, with: .ioError)
    // The reference's own bytes were among those that could not be written.
    #expect(throws: ServeError.self) { try store.store(named("archives/a"), text("x")) }
    try store.store(named("archives/a"), text("x"))
    #expect(try Self.damage(1..<2, ["archives/a"], after: disk) == [])
  }

  @Test func `a reference makes durable what another session left unsynced, if syncfs can`() throws {
    let disk = Self.untrustedDisk()
    let root = disk.root()
    // The original writes to a temporary name, renames, and never syncs.
    let name = data(1).nested(dataLevels: 2)
    try root.makeDirectories(name.parentName ?? "")
    let bytes = Array(Self.content(1).utf8)
    try root.create("\(name).tmp").write(bytes, bytes.indices, at: 0)
    try root.rename("\(name).tmp", to: name, in: root)
    let store = Self.store(on: disk)
    try store.store(named("archives/a"), text("x"))
    #expect(try Self.damage(1..<2, ["archives/a"], after: disk) == [])
  }
}
