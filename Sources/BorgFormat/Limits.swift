/// Every size, count and time that bounds what a peer can make this server do, in one place.
///
/// Sizes are bytes unless the name says otherwise.
public enum Limits {
  /// Largest `data` of a `put`: 20,971,479 bytes, inclusive (MAX_DATA_SIZE: 20 MiB less 41 bytes of a
  /// Borg 1 segment entry's header). Source: borg 2.0.0b18 `src/borg/constants.py`.
  public static let putData = 20 * 1024 * 1024 - 41

  /// Longest binary or string of MessagePack: 2³²−1 bytes.
  public static let messagePackLength = Int(UInt32.max)

  /// Largest object below `cache/`, where chunk indexes of hundreds of MiB live, and of a
  /// `config/space-reserve.N` filler: as much as a message can hold, 4 GiB less one byte.
  public static let chunkIndex = messagePackLength

  /// Largest value of every other kind (manifest, key, archive entry): 1 MiB.
  public static let smallObject = 1024 * 1024

  /// Values up to this size travel in memory; larger ones are written to a staged file while they arrive.
  ///
  /// 128 KiB keeps the memory of a session small (a full queue of them is `requestBytesInFlight`) and is
  /// far above the size from which writing straight to disk costs nothing extra.
  public static let inlineValue = 128 * 1024

  /// Largest request without its spooled value; an honest one takes a few hundred bytes and `inlineValue`.
  public static let requestBytes = 1024 * 1024

  /// MessagePack elements in one request, nested ones included. The largest honest request has about 20.
  public static let requestElements = 4096

  /// Nesting depth of MessagePack values in a request.
  public static let requestDepth = 32

  /// Borg 1.x: largest value that is received whole; 64 KiB more than can be stored, for what is only just too large.
  public static let borg1Value = putData + 64 * 1024

  /// Borg 1.x: largest request, of one such value and whatever else a client may say.
  public static let borg1Request = borg1Value + 1024 * 1024

  /// Borg 1.x: bytes of answers that are collected before they are sent.
  public static let borg1Output = 128 * 1024

  /// Bytes of memory for answers that are kept between them.
  public static let borg1KeptOutput = 4 << 20

  /// Length of a repository path as the client sends it.
  public static let path = 4096

  /// Characters in a store name, its suffix included. Source: borgstore 0.3 `constants.py`, MAX_NAME_LENGTH.
  public static let nameLength = 100

  /// Bytes read from a client at a time.
  public static let readBlock = 256 * 1024

  /// Requests that a client may have in flight before the server stops reading: stock clients send 100.
  public static let requestsInFlight = 256

  /// Bytes of request values, and separately of replies, that a session holds in memory before it stops
  /// taking on more.
  public static let requestBytesInFlight = 8 * 1024 * 1024

  /// What an answer that is streamed from an open file counts for among the bytes in flight: at most 16 files are open
  /// for a client at a time.
  public static let openAnswer = 512 * 1024

  /// Bytes that are written to a pipe at a time where an idle timeout wants to know whether any move.
  public static let idleStep = 16 * 1024

  /// Files that a client of a socket may have open at a time: answers that wait, what is being staged and published, the
  /// connection itself.
  public static let filesPerConnection = 48

  /// Entries of a `list` answer when the client names no limit; stock clients ask for 100,000 at most.
  public static let listPage = 1_000_000

  /// A lock not refreshed for this long is stale: 1,800 s. Source: borg 2.0.0b18 `storelocking.py`.
  public static let lockStaleSeconds = 1800

  /// A lock older than this is refreshed: half of `lockStaleSeconds`.
  public static let lockRefreshSeconds = 900

  /// A silent client's lock is kept fresh for this long after its last request: 24 hours.
  public static let silentClientSeconds = 24 * 3600

  /// Objects, bytes and seconds after which staged objects are made durable and published.
  public static let stagedObjects = 1000
  public static let stagedBytes = 64 * 1024 * 1024
  public static let stagedSeconds = 5

  /// Clients that a socket server serves at a time unless `--max-connections` says otherwise, and how many beyond
  /// them are told that they are too many; further ones are hung up on.
  public static let socketConnections = 100
  public static let socketRefusals = 16

  /// Largest lock object that is looked at; real ones have about 120 bytes.
  public static let lockRecord = 64 * 1024

  /// Largest `lock.roster` of a Borg 1 repository that is looked at: 1 MiB, some 20,000 holders.
  public static let lockRoster = 1024 * 1024

  /// HTTP: bytes of a line of a head, of a head as a whole, and how many fields it may have. Source: Python's `http.server`, as
  /// the original uses it, for lines and fields.
  public static let restLine = 64 * 1024
  public static let restHead = 128 * 1024
  public static let restFields = 100

  /// HTTP: largest list of ranges for `gather` and `defrag`: 4 MiB, some 40,000 of Borg's. Stock clients gather 1,000 at a
  /// time, and merge as many small packs as come to 50 MB.
  public static let restRanges = 4 << 20

  /// Largest `config` of a Borg 1 repository: 1 MiB; one with a key has about 1,000 bytes.
  public static let repositoryConfig = 1024 * 1024
}
