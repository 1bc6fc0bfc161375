import Synchronization

/// What a request says of who sent it.
struct BasicCredentials: Sendable, Equatable {
  let user: String
  let password: [UInt8]

  /// Reads the value of an `Authorization` field; nil for another scheme, or what is none. The password may have colons.
  init?(_ value: String) {
    let parts = value.split(separator: " ", maxSplits: 1)
    guard parts.count == 2, parts[0].lowercased() == "basic",
      let bytes = Base64.decode(parts[1].trimmed), let colon = bytes.firstIndex(of: UInt8(ascii: ":"))
    else { return nil }
    user = String(decoding: bytes[..<colon], as: UTF8.self)
    password = Array(bytes[(colon + 1)...])
    guard !user.isEmpty, user.utf8.elementsEqual(bytes[..<colon]) else { return nil }
  }
}

enum Base64 {
  /// The bytes of a text in base 64 with padding, or without; nil for anything else.
  static func decode(_ text: Substring) -> [UInt8]? {
    var result: [UInt8] = []
    result.reserveCapacity(text.utf8.count * 3 / 4)
    var (bits, count, padding) = (UInt32(0), 0, 0)
    for byte in text.utf8 {
      let value: UInt32
      switch byte {
      case 65...90: value = UInt32(byte - 65)
      case 97...122: value = UInt32(byte - 71)
      case 48...57: value = UInt32(byte + 4)
      case UInt8(ascii: "+"): value = 62
      case UInt8(ascii: "/"): value = 63
      case UInt8(ascii: "="):
        padding += 1
        continue
      default: return nil
      }
      guard padding == 0 else { return nil }
      (bits, count) = (bits << 6 | value, count + 6)
      if count >= 8 {
        count -= 8
        result.append(UInt8(truncatingIfNeeded: bits >> UInt32(count)))
        bits &= (1 << UInt32(count)) - 1
      }
    }
    return padding <= 2 && count < 6 && bits == 0 ? result : nil
  }
}

/// A digest under keys that only this process has, of 128 bits: two SipHashes. By it a password that was right is known
/// again without being kept, and without the cost of its hash.
struct KeyedDigest: Hashable, Sendable {
  private let halves: [Int]

  /// The process' keys; the library's own seeds are not relied upon.
  struct Key: Sendable {
    fileprivate let words = (0..<8).map { _ in UInt64.random(in: .min ... .max) }

    init() {}
  }

  init(_ texts: [[UInt8]], key: Key) {
    halves = [0, 4].map { start in
      var hasher = Hasher()
      hasher.combine(key.words[start..<start + 4])
      for text in texts { hasher.combine(text) }
      return hasher.finalize()
    }
  }

  /// Compares in constant time.
  static func == (left: KeyedDigest, right: KeyedDigest) -> Bool {
    (left.halves[0] ^ right.halves[0]) | (left.halves[1] ^ right.halves[1]) == 0
  }

  /// One of `count` numbers, always the same for the same texts.
  func choice(of count: Int) -> Int { Int(UInt(bitPattern: halves[0]) % UInt(max(count, 1))) }
}

/// Whose passwords are right. Thread-safe; a class because connections, checks and reloads share it.
///
/// A right password is hashed once, and then known by a keyed digest until its line in the file changes. Users that do not
/// exist cost a hash as well, that of somebody else's line, always the same one: how long a refusal takes does not tell who
/// exists. Failures count against an address and a user: who has too many is refused without a hash for a while. A right
/// password that is known passes even then, so that nobody can lock others out.
final class Credentials: Sendable {
  /// What comes of looking at credentials.
  enum Verdict: Sendable, Equatable {
    case right
    case wrong
    /// Too many failures; seconds until the next may be tried.
    case throttled(seconds: Int)
    /// It takes a hash to know: `check` does it.
    case unknown
  }

  private struct State {
    var file = PasswordFile()
    var known: [String: KeyedDigest] = [:]
    var failures = Throttle()
  }

  private let state = Mutex(State())
  private let key = KeyedDigest.Key()

  /// Whose passwords there are.
  var users: Set<String> { state.withLock { Set($0.file.passwords.keys) } }

  /// Takes over what a new file says; what was known of lines that have changed is forgotten.
  func load(_ file: PasswordFile) {
    state.withLock { state in
      state.known = state.known.filter { user, _ in file.passwords[user] == state.file.passwords[user] }
      state.file = file
    }
  }

  func limit(failures: Int, within seconds: Double) {
    state.withLock { $0.failures.limit(failures: failures, within: seconds) }
  }

  /// Decides what can be decided at once. Never blocks.
  func look(_ credentials: BasicCredentials, from site: [UInt8], at now: ContinuousClock.Instant = .now)
    -> Verdict
  {
    state.withLock { state in
      if let password = state.file.passwords[credentials.user], let known = state.known[credentials.user],
        known == digest(credentials, password)
      {
        return .right
      }
      if let wait = state.failures.wait(for: credentials.user, from: site, at: now) {
        return .throttled(seconds: wait)
      }
      return .unknown
    }
  }

  /// Hashes, and so blocks for as long as that is meant to take.
  func check(_ credentials: BasicCredentials, from site: [UInt8]) -> Verdict {
    let (password, stand) = state.withLock { state -> (HashedPassword?, HashedPassword?) in
      if let password = state.file.passwords[credentials.user] { return (password, nil) }
      let others = state.file.passwords.sorted { $0.key < $1.key }
      guard !others.isEmpty else { return (nil, nil) }
      let choice = KeyedDigest([Array(credentials.user.utf8)], key: key).choice(of: others.count)
      return (nil, others[choice].value)
    }
    let isRight = (password ?? stand)?.admits(credentials.password) ?? false
    guard isRight, let password else {
      state.withLock { $0.failures.note(credentials.user, from: site, at: .now) }
      return .wrong
    }
    let digest = digest(credentials, password)
    return state.withLock { state in
      // The file may have changed meanwhile.
      guard state.file.passwords[credentials.user] == password else { return .wrong }
      state.known[credentials.user] = digest
      state.failures.forgive(from: site)
      return .right
    }
  }

  private func digest(_ credentials: BasicCredentials, _ password: HashedPassword) -> KeyedDigest {
    KeyedDigest([credentials.password, Array(password.text.utf8)], key: key)
  }
}

/// Counts failures of addresses and users within a time, and says who has to wait.
struct Throttle {
  private var limit = 10
  private var span = Duration.seconds(60)
  private var sites: [[UInt8]: Count] = [:]
  private var users: [String: Count] = [:]
  /// Addresses, and users, of whom something is known at a time; guessers who come from more are counted anew.
  private static let capacity = 20_000

  private struct Count {
    var failures = 0
    var since: ContinuousClock.Instant
  }

  mutating func limit(failures: Int, within seconds: Double) {
    (limit, span) = (failures, .seconds(seconds))
  }

  /// Seconds, at least 1, for which an attempt is not looked at; nil if it may be. A user may fail ten times as often as an
  /// address, since others may be guessing.
  func wait(for user: String, from site: [UInt8], at now: ContinuousClock.Instant) -> Int? {
    let counts = [(sites[site], limit), (users[user], limit * 10)]
    let waits = counts.compactMap { count, limit -> Duration? in
      guard let count, count.failures >= limit, now - count.since < span else { return nil }
      return span - (now - count.since)
    }
    return waits.max().map { max(1, Int(($0 / .seconds(1)).rounded(.up))) }
  }

  mutating func note(_ user: String, from site: [UInt8], at now: ContinuousClock.Instant) {
    Self.note(&sites, site, now, span)
    Self.note(&users, user, now, span)
  }

  /// An address from which somebody had the right password begins anew.
  mutating func forgive(from site: [UInt8]) { sites[site] = nil }

  private static func note<Key: Hashable>(
    _ counts: inout [Key: Count], _ key: Key, _ now: ContinuousClock.Instant, _ span: Duration
  ) {
    if counts.count >= capacity { counts = counts.filter { now - $0.value.since < span } }
    if counts.count >= capacity { counts.removeAll() }
    var count = counts[key] ?? Count(since: now)
    if now - count.since >= span { count = Count(since: now) }
    count.failures += 1
    counts[key] = count
  }
}
