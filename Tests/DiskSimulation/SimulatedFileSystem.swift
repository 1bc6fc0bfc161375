import TestKit
import Disk
import SystemPackage

/// Files and directories in memory, each with what programs see and what a power cut is sure to leave.
///
/// The rules are the weakest that POSIX file systems are known to have: a file's data and its name become
/// durable apart from each other; so does every change of a directory's entries, in any order, but for one
/// name the earlier changes come first; a rename never loses a file under both names. A value: a copy is
/// another disk in the same state.
///
/// Some of its directories may be other devices, whose data and names are synced apart from the root's.
struct SimulatedFileSystem: Sendable {
  typealias Number = UInt64
  static let root: Number = 2
  static let rootDevice: UInt64 = 0

  struct Directory: Sendable {
    var entries: [String: Number] = [:]
    var durable: [String: Number] = [:]
    /// What happened to each name since it was last durable, oldest first.
    var changes: [String: [Change]] = [:]
    /// Where it was made; nil for the root.
    var origin: Place?
    var isRemoved = false
    var device = SimulatedFileSystem.rootDevice
    /// Whether another device begins here.
    var isMountPoint = false
  }

  /// A name's new meaning; nil if it was removed.
  struct Change: Sendable {
    let serial: Int
    let value: Number?
  }

  /// One change of one name.
  struct Place: Sendable, Hashable {
    let directory: Number
    let name: String
    let serial: Int
  }

  private(set) var files: [Number: SimulatedFile] = [:]
  private(set) var directories: [Number: Directory] = [root: Directory()]
  /// What else becomes durable with a change. A rename's removal never does without its addition; in one
  /// directory neither does without the other.
  private var companions: [Place: Place] = [:]
  private var serial = 0
  private var lastNumber = root
  private var lastDevice = rootDevice
  private var writebackErrors: [UInt64: WritebackError] = [:]

  // MARK: Looking

  func isDirectory(_ number: Number) -> Bool { directories[number] != nil }

  func device(of number: Number) -> UInt64 {
    directories[number]?.device ?? files[number]?.device ?? Self.rootDevice
  }

  /// What a path below a directory leads to.
  func resolve(_ path: String, from directory: Number) throws(Errno) -> Number {
    var number = directory
    for component in path.split(separator: "/") where component != "." {
      guard let directory = directories[number] else { throw .notDirectory }
      guard let next = directory.entries[String(component)] else { throw .noSuchFileOrDirectory }
      number = next
    }
    return number
  }

  /// The directory that a path's last component is in, and that component.
  private func parent(of path: String, from directory: Number) throws(Errno) -> (Number, String) {
    let name = path.split(separator: "/").last.map(String.init) ?? ""
    guard !name.isEmpty, name != ".", name != ".." else { throw .invalidArgument }
    guard name.utf8.count <= 255 else { throw .fileNameTooLong }
    let number = try resolve(path.parentName ?? "", from: directory)
    guard let parent = directories[number] else { throw .notDirectory }
    guard !parent.isRemoved else { throw .noSuchFileOrDirectory }
    return (number, name)
  }

  /// Bytes that files take.
  var usedBytes: Int {
    files.values.reduce(0) { $0 + ($1.links > 0 || $1.descriptors > 0 ? $1.bytes.count : 0) }
  }

  /// The paths of all files below the root and, with a slash at the end, of all directories.
  var paths: [String] {
    var found: [String] = []
    func walk(_ number: Number, _ prefix: String) {
      for (name, entry) in directories[number]?.entries ?? [:] {
        if isDirectory(entry) {
          found.append(prefix + name + "/")
          walk(entry, prefix + name + "/")
        } else {
          found.append(prefix + name)
        }
      }
    }
    walk(Self.root, "")
    return found.sorted()
  }

  // MARK: Changing

  @discardableResult
  private mutating func change(_ name: String, in directory: Number, to value: Number?) -> Place {
    serial += 1
    directories[directory]?.entries[name] = value
    directories[directory]?.changes[name, default: []].append(Change(serial: serial, value: value))
    return Place(directory: directory, name: name, serial: serial)
  }

  mutating func create(_ path: String, from directory: Number, _ file: SimulatedFile = SimulatedFile())
    throws(Errno) -> Number
  {
    let (parent, name) = try parent(of: path, from: directory)
    guard directories[parent]?.entries[name] == nil else { throw .fileExists }
    lastNumber += 1
    files[lastNumber] = file
    let device = device(of: parent)
    files[lastNumber]?.links = 1
    files[lastNumber]?.device = device
    change(name, in: parent, to: lastNumber)
    return lastNumber
  }

  mutating func makeDirectory(_ path: String, from directory: Number) throws(Errno) {
    let (parent, name) = try parent(of: path, from: directory)
    guard directories[parent]?.entries[name] == nil else { throw .fileExists }
    lastNumber += 1
    let origin = change(name, in: parent, to: lastNumber)
    directories[lastNumber] = Directory(origin: origin, device: device(of: parent))
  }

  /// Lets another device begin, empty, at this path, which is made durably if need be. What was there is
  /// reached only by those who have it open.
  mutating func mount(at path: String) throws(Errno) {
    var directory = ""
    for component in path.split(separator: "/") {
      directory += directory.isEmpty ? "\(component)" : "/\(component)"
      do { try makeDirectory(directory, from: Self.root) } catch .fileExists {}
    }
    let (parent, name) = try parent(of: path, from: Self.root)
    lastNumber += 1
    lastDevice += 1
    directories[lastNumber] = Directory(device: lastDevice, isMountPoint: true)
    let place = change(name, in: parent, to: lastNumber)
    persist(place)
    persistAncestors(of: parent)
  }

  mutating func link(
    _ path: String, from directory: Number, to newPath: String, from newDirectory: Number
  ) throws(Errno) {
    let number = try resolve(path, from: directory)
    let (parent, name) = try parent(of: newPath, from: newDirectory)
    guard directories[parent]?.entries[name] == nil else { throw .fileExists }
    guard files[number] != nil else { throw .notPermitted }
    guard device(of: number) == device(of: parent) else { throw .improperLink }
    files[number]?.links += 1
    change(name, in: parent, to: number)
  }

  mutating func unlink(_ path: String, from directory: Number) throws(Errno) {
    let (parent, name) = try parent(of: path, from: directory)
    guard let number = directories[parent]?.entries[name] else { throw .noSuchFileOrDirectory }
    guard !isDirectory(number) else { throw .isDirectory }
    files[number]?.links -= 1
    change(name, in: parent, to: nil)
  }

  mutating func removeDirectory(_ path: String, from directory: Number) throws(Errno) {
    let (parent, name) = try parent(of: path, from: directory)
    guard let number = directories[parent]?.entries[name] else { throw .noSuchFileOrDirectory }
    guard let removed = directories[number] else { throw .notDirectory }
    guard !removed.isMountPoint else { throw .resourceBusy }
    guard removed.entries.isEmpty else { throw .directoryNotEmpty }
    directories[number]?.isRemoved = true
    change(name, in: parent, to: nil)
  }

  mutating func rename(
    _ path: String, from directory: Number, to newPath: String, from newDirectory: Number, replacing: Bool
  ) throws(Errno) {
    let (oldParent, oldName) = try parent(of: path, from: directory)
    guard let number = directories[oldParent]?.entries[oldName] else { throw .noSuchFileOrDirectory }
    let (newParent, newName) = try parent(of: newPath, from: newDirectory)
    let replaced = directories[newParent]?.entries[newName]
    guard replacing || replaced == nil else { throw .fileExists }
    guard replaced != number else { return }
    guard device(of: number) == device(of: oldParent) else { throw .resourceBusy }
    guard device(of: number) == device(of: newParent) else { throw .improperLink }
    if let replaced {
      switch (isDirectory(number), isDirectory(replaced)) {
      case (false, true): throw .isDirectory
      case (true, false): throw .notDirectory
      case (true, true):
        guard directories[replaced]?.entries.isEmpty == true else { throw .directoryNotEmpty }
        directories[replaced]?.isRemoved = true
      case (false, false): files[replaced]?.links -= 1
      }
    }
    let addition = change(newName, in: newParent, to: number)
    let removal = change(oldName, in: oldParent, to: nil)
    if isDirectory(number) { directories[number]?.origin = addition }
    companions[removal] = addition
    if oldParent == newParent { companions[addition] = removal }
  }

  mutating func withFile<Result>(_ number: Number, _ body: (inout SimulatedFile) -> Result) -> Result? {
    guard files[number] != nil else { return nil }
    return body(&files[number, default: SimulatedFile()])
  }

  // MARK: Making durable

  /// Makes a file's data and size, or a directory's entries, durable.
  mutating func sync(_ number: Number) {
    files[number]?.sync()
    guard let directory = directories[number] else { return }
    for (name, changes) in directory.changes {
      if let last = changes.last { persist(Place(directory: number, name: name, serial: last.serial)) }
    }
  }

  /// Makes all data and names of one device durable.
  mutating func syncAll(on device: UInt64) {
    for number in files.keys where files[number]?.device == device { files[number]?.sync() }
    for number in directories.keys where directories[number]?.device == device { sync(number) }
    companions = companions.filter { directories[$0.key.directory]?.device != device }
  }

  /// Makes one name's changes durable up to this one, and whatever must not be missing then.
  private mutating func persist(_ place: Place) {
    guard let changes = directories[place.directory]?.changes[place.name] else { return }
    let reached = changes.prefix { $0.serial <= place.serial }
    guard let last = reached.last else { return }
    let rest = Array(changes.dropFirst(reached.count))
    directories[place.directory]?.changes[place.name] = rest.isEmpty ? nil : rest
    directories[place.directory]?.durable[place.name] = last.value
    for change in reached {
      let place = Place(directory: place.directory, name: place.name, serial: change.serial)
      guard let companion = companions.removeValue(forKey: place) else { continue }
      persist(companion)
      persistAncestors(of: companion.directory)
    }
  }

  private mutating func persistAncestors(of number: Number) {
    var next = directories[number]?.origin
    while let origin = next {
      persist(origin)
      next = directories[origin.directory]?.origin
    }
  }

  /// Puts a file with its name and its directories on the disk, as if it had always been there.
  mutating func install(_ bytes: [UInt8], at path: String) throws(Errno) {
    var directory = ""
    for component in path.split(separator: "/").dropLast() {
      directory += directory.isEmpty ? "\(component)" : "/\(component)"
      do { try makeDirectory(directory, from: Self.root) } catch .fileExists {}
    }
    if (try? resolve(path, from: Self.root)) != nil { try unlink(path, from: Self.root) }
    _ = try create(path, from: Self.root, SimulatedFile(durable: bytes))
    for number in directories.keys { sync(number) }
  }

  // MARK: Failing

  /// A device fails to write data back: it is dropped, and each descriptor is to be told.
  mutating func failWriteback(on device: UInt64) {
    for (number, file) in files where file.device == device && file.isDirty {
      files[number]?.forgetChanges()
      files[number]?.writebackError.note()
    }
    writebackErrors[device, default: WritebackError()].note()
  }

  /// What a new descriptor has heard of failures: its file's, and its device's.
  func sampleErrors(of number: Number) -> (file: Int, device: Int) {
    let device = writebackErrors[device(of: number), default: WritebackError()].sample
    return (files[number]?.writebackError.sample ?? 0, device)
  }

  /// Whether the device has failed and this descriptor's owner does not know; it is told by this.
  mutating func reportError(on device: UInt64, to seen: inout Int) -> Bool {
    writebackErrors[device, default: WritebackError()].report(to: &seen)
  }

  // MARK: Crashing

  /// The end of the process: its descriptors are gone, nothing else is.
  mutating func kill() {
    for number in files.keys { files[number]?.descriptors = 0 }
  }

  /// Leaves one of the states that a power cut may leave.
  mutating func cutPower(using generator: inout SeededGenerator) {
    kill()
    let entryFate = Fate.allCases.randomElement(using: &generator) ?? .lost
    for number in directories.keys.sorted() {
      for (name, changes) in (directories[number]?.changes ?? [:]).sorted(by: { $0.key < $1.key }) {
        let count =
          switch entryFate {
          case .lost: 0
          case .kept: changes.count
          case .mixed: Int.random(in: 0...changes.count, using: &generator)
          }
        guard count > 0 else { continue }
        persist(Place(directory: number, name: name, serial: changes[count - 1].serial))
      }
    }
    companions = [:]
    let dataFate = Fate.allCases.randomElement(using: &generator) ?? .lost
    for number in files.keys.sorted() { files[number]?.cutPower(dataFate, using: &generator) }
    keepWhatIsReachable()
  }

  private mutating func keepWhatIsReachable() {
    var reachable: Set<Number> = []
    var waiting = [Self.root]
    var links: [Number: Int] = [:]
    while let number = waiting.popLast() {
      guard reachable.insert(number).inserted, let directory = directories[number] else { continue }
      directories[number]?.entries = directory.durable
      directories[number]?.changes = [:]
      directories[number]?.isRemoved = false
      for entry in directory.durable.values {
        links[entry, default: 0] += 1
        waiting.append(entry)
      }
    }
    directories = directories.filter { reachable.contains($0.key) }
    files = files.filter { reachable.contains($0.key) }
    for number in files.keys { files[number]?.links = links[number] ?? 0 }
  }
}
