import TestKit
import BorgFormat
import DiskSimulation
import Storage

/// A random session with a store, and what it may leave when it ends in a crash.
///
/// For each name there is a set of values that are possible afterwards; what was acknowledged as durable is
/// the only one. `nil` is an object that is not there.
struct CrashModel {
  private var generator: SeededGenerator
  /// What a session that goes on sees.
  private var current: [StoreName: String] = [:]
  private var possible: [StoreName: Set<String?>] = [:]
  /// A reference whose store was not answered, and what data it stands for.
  private(set) var unansweredReference: (name: StoreName, value: String, data: [StoreName: String])?
  private var stamp = 0
  /// Whether the store said that it can keep no promise any more.
  private(set) var hasFailed = false
  /// What went wrong already while the session ran.
  private(set) var complaints: [String] = []

  static let dataNames = (0..<10).map { data($0) }
  static let references =
    ["archives/1", "archives/2", "config/manifest", "cache/chunks.1", "keys/repokey"]
    .compactMap { try? named($0) }
  static var allNames: [StoreName] { dataNames + references + softDeleted }
  private static let softDeleted = references.compactMap { try? $0.softDeleted() }

  init(seed: UInt64) {
    generator = SeededGenerator(seed: seed)
    for name in Self.allNames { possible[name] = [nil] }
  }

  // MARK: Running

  /// Does `count` random things with the store, past any errors.
  mutating func run(_ count: Int, in store: any ObjectStore) {
    for _ in 0..<count { step(store) }
  }

  private mutating func step(_ store: any ObjectStore) {
    switch Int.random(in: 0..<20, using: &generator) {
    case 0..<10: storeData(store)
    case 10..<12: deleteData(store)
    case 12..<15: storeReference(store)
    case 15: deleteReference(store)
    case 16: moveReference(store)
    case 17:
      attempt { () throws(ServeError) in
        try store.barrier(durable: false)
      } then: { _ in
      }
    case 18:
      attempt { () throws(ServeError) in
        try store.barrier(durable: true)
      } then: {
        $0.settleData()
      }
    default: readSomething(store)
    }
  }

  /// Tries something that may only succeed as long as the store has not failed.
  @discardableResult
  private mutating func attempt(
    isBarrier: Bool = true, _ body: () throws(ServeError) -> Void, then succeed: (inout Self) -> Void
  ) -> Bool {
    do throws(ServeError) {
      try body()
    } catch {
      if isBarrier { hasFailed = true }
      return false
    }
    if hasFailed { complaints.append("acknowledged something after a failed barrier") }
    succeed(&self)
    return true
  }

  private mutating func newValue() -> String {
    stamp += 1
    let length = generator.oneIn(4) ? 0 : Int.random(in: 0..<300, using: &generator)
    return "<\(stamp)" + String(repeating: "x", count: length) + ">"
  }

  private mutating func storeData(_ store: any ObjectStore) {
    guard let name = Self.dataNames.randomElement(using: &generator) else { return }
    let value = newValue()
    possible[name]?.insert(value)
    let content: ObjectContent
    if generator.oneIn(4), let upload = try? store.upload() {
      let bytes = Array(value.utf8)
      let half = bytes.count / 2
      upload.append(bytes, 0..<half)
      upload.append(bytes, half..<bytes.count)
      content = .upload(upload)
    } else {
      content = text(value)
    }
    let isStored = attempt(isBarrier: false) { () throws(ServeError) in
      try store.store(name, content)
    } then: {
      $0.current[name] = value
    }
    // Nobody knows which version a failed store left for the next barrier.
    if !isStored { unsettled.insert(name) } else { unsettled.remove(name) }
    inherited.remove(name)
  }

  /// Data of which the session itself does not know the current version.
  private var unsettled: Set<StoreName> = []
  /// Data of a killed session, whose names nobody has synced: a later session's barrier promises its own.
  private var inherited: Set<StoreName> = []

  private mutating func deleteData(_ store: any ObjectStore) {
    guard let name = Self.dataNames.randomElement(using: &generator) else { return }
    possible[name]?.insert(nil)
    let isDeleted = attempt(isBarrier: false) { () throws(ServeError) in
      _ = try store.delete(name)
    } then: {
      $0.current[name] = nil
    }
    if !isDeleted { unsettled.insert(name) } else { unsettled.remove(name) }
  }

  private mutating func storeReference(_ store: any ObjectStore) {
    guard let name = Self.references.randomElement(using: &generator) else { return }
    let value = newValue()
    let before = possible[name] ?? []
    possible[name]?.insert(value)
    let promised = current.filter { $0.key.namespace == .data && !inherited.contains($0.key) }
    unansweredReference = (name, value, promised)
    attempt(isBarrier: false) { () throws(ServeError) in
      try store.store(name, text(value))
    } then: {
      $0.settleData()
      $0.settle(name, value)
      $0.unansweredReference = nil
    }
    if unansweredReference != nil { possible[name] = before.union([value]) }
  }

  private mutating func deleteReference(_ store: any ObjectStore) {
    guard let name = Self.references.randomElement(using: &generator) else { return }
    possible[name]?.insert(nil)
    attempt(isBarrier: false) { () throws(ServeError) in
      _ = try store.delete(name)
    } then: {
      $0.settle(name, nil)
    }
  }

  private mutating func moveReference(_ store: any ObjectStore) {
    guard let old = Self.references.randomElement(using: &generator),
      let new = generator.oneIn(3)
        ? Self.references.randomElement(using: &generator) : try? old.softDeleted(), old != new
    else { return }
    let values = possible[old] ?? []
    possible[new]?.formUnion(values)
    possible[old]?.insert(nil)
    var wasFound = false
    attempt(isBarrier: false) { () throws(ServeError) in
      wasFound = try store.move(old, to: new)
    } then: {
      $0.settleData()
      guard wasFound else { return }
      let moved = $0.current[old]
      $0.settle(old, nil)
      $0.settle(new, moved)
    }
  }

  private mutating func readSomething(_ store: any ObjectStore) {
    guard let name = Self.allNames.randomElement(using: &generator), !unsettled.contains(name),
      possible[name]?.count == 1 || name.namespace == .data,
      let found = try? Optional(store.text(name))
    else { return }
    if found != current[name] {
      complaints.append(
        "\(name.text) reads \(found?.summary ?? "nothing") instead of \(current[name]?.summary ?? "nothing")")
    }
  }

  private mutating func settle(_ name: StoreName, _ value: String?) {
    current[name] = value
    possible[name] = [value]
  }

  /// After a durable barrier all stored data is there. Deletions are not promised.
  private mutating func settleData() {
    for name in Self.dataNames where !unsettled.contains(name) && !inherited.contains(name) {
      if let value = current[name] { possible[name] = [value] }
    }
  }

  // MARK: Judging

  /// What is wrong with the store that the next session finds; empty if all is well.
  func judge(_ store: any ObjectStore) -> [String] {
    var wrong = complaints
    var found: [StoreName: String] = [:]
    for name in Self.allNames {
      do throws(ServeError) {
        let value = try store.text(name)
        found[name] = value
        if possible[name]?.contains(value) == false {
          let expected = possible[name, default: []].map { $0?.summary ?? "nothing" }.sorted()
          let what = name.text + (name.isDeleted ? StoreName.deletedSuffix : "")
          wrong.append("\(what) is \(value?.summary ?? "nothing"), not \(expected)")
        }
      } catch {
        wrong.append("\(name.text): \(error)")
      }
    }
    if let reference = unansweredReference, found[reference.name] == reference.value {
      for (name, value) in reference.data where found[name] != value && !unsettled.contains(name) {
        wrong.append(
          "\(reference.name.text) stands, but \(name.text) is \(found[name]?.summary ?? "nothing") "
            + "instead of \(value.summary)")
      }
    }
    return wrong
  }

  /// Goes on with what a crash left; after a power cut that is there for good.
  mutating func adopt(_ store: any ObjectStore, isDurable: Bool) throws {
    for name in Self.allNames {
      let value = try store.text(name)
      current[name] = value
      if isDurable { possible[name] = [value] } else { possible[name]?.insert(value) }
    }
    (unansweredReference, hasFailed, unsettled) = (nil, false, [])
    inherited = isDurable ? [] : Set(Self.dataNames)
  }
}

extension String {
  fileprivate var summary: String { count > 12 ? "\(prefix(6))…(\(utf8.count))" : self }
}
