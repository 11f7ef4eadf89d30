//! What the safe crate does not offer of librdkafka: batches from one queue of our own, topic ids, offsets of many partitions.
//!
//! Floor 3: uses `error` and its neighbours. **The only file with `unsafe` code but `memory`.** Every pointer stays inside it, and each wrapper frees what
//! it owns when it is dropped.
//!
//! Why a queue of our own \[research: performance §3.1\]: with a group id the client's main queue is joined to the consumer's, and
//! `rd_kafka_consume_batch_queue` on that would swallow what the client has to say (token refreshes, errors). So every
//! partition's queue is forwarded to one data queue, batches come from there, and the consumer is polled beside it. As the
//! partitions share one queue, librdkafka's limit on prefetched bytes holds for all of them together.
#![allow(unsafe_code, reason = "librdkafka is written in C; see above")]

use std::ffi::{CStr, CString, c_char, c_void};
use std::marker::PhantomData;
use std::ptr;
use std::slice;
use std::sync::Arc;
use std::time::Duration;

use rdkafka::bindings::*;
use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext};

/// Messages that one call takes at most. Half of DataFusion's batch: what is on its way between two tasks is some batches.
const BATCH: usize = 4096;

/// A message as it lies in librdkafka's memory.
pub struct Message<'a>(&'a rd_kafka_message_t);

impl<'a> Message<'a> {
    /// Why this is no message but an event of its partition.
    pub fn error(&self) -> Option<rd_kafka_resp_err_t> {
        (self.0.err != rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR).then_some(self.0.err)
    }

    /// What librdkafka says about the event.
    pub fn error_text(&self) -> String {
        // SAFETY: for an event the payload is the text of the error, and librdkafka ends it with a zero.
        let text = unsafe { rd_kafka_message_errstr(self.0) };
        text_of(text)
    }

    /// Identifies the topic as long as its partitions are assigned.
    pub fn topic_key(&self) -> usize {
        self.0.rkt as usize
    }

    /// The topic's name.
    pub fn topic(&self) -> String {
        if self.0.rkt.is_null() {
            return String::new();
        }
        // SAFETY: a message that is not freed keeps its topic alive.
        text_of(unsafe { rd_kafka_topic_name(self.0.rkt) })
    }

    /// The number of the partition.
    pub fn partition(&self) -> i32 {
        self.0.partition
    }

    /// The offset; of an end of partition, the offset that will come next.
    pub fn offset(&self) -> i64 {
        self.0.offset
    }

    /// The key.
    pub fn key(&self) -> Option<&'a [u8]> {
        bytes(self.0.key, self.0.key_len)
    }

    /// The value; none for a tombstone.
    pub fn payload(&self) -> Option<&'a [u8]> {
        bytes(self.0.payload, self.0.len)
    }

    /// Milliseconds since 1970, and what they are of: 0 the creation, 1 the append to the log.
    pub fn timestamp(&self) -> Option<(i64, i32)> {
        use rd_kafka_timestamp_type_t::{RD_KAFKA_TIMESTAMP_CREATE_TIME, RD_KAFKA_TIMESTAMP_LOG_APPEND_TIME};
        let mut kind = rd_kafka_timestamp_type_t::RD_KAFKA_TIMESTAMP_NOT_AVAILABLE;
        // SAFETY: the message is alive, and `kind` outlives the call.
        let at = unsafe { rd_kafka_message_timestamp(self.0, &raw mut kind) };
        match kind {
            RD_KAFKA_TIMESTAMP_CREATE_TIME => Some((at, 0)),
            RD_KAFKA_TIMESTAMP_LOG_APPEND_TIME => Some((at, 1)),
            _ => None,
        }
    }

    /// Calls `each` with the name and the value of every header, in order.
    pub fn headers(&self, mut each: impl FnMut(&str, Option<&[u8]>)) {
        let mut headers = ptr::null_mut();
        // SAFETY: the message is alive; what it says about headers lives as long as it does.
        let found = unsafe { rd_kafka_message_headers(self.0, &raw mut headers) };
        if found != rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR {
            return;
        }
        for index in 0.. {
            let (mut name, mut value, mut size) = (ptr::null(), ptr::null(), 0);
            // SAFETY: as above; an index behind the last answers with an error.
            let found =
                unsafe { rd_kafka_header_get_all(headers, index, &raw mut name, &raw mut value, &raw mut size) };
            if found != rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR {
                return;
            }
            each(&text_of(name), bytes(value.cast_mut(), size));
        }
    }
}

fn bytes<'a>(start: *mut c_void, length: usize) -> Option<&'a [u8]> {
    // SAFETY: librdkafka gives a pointer and its length together; they live as long as the message, which `'a` borrows.
    (!start.is_null()).then(|| unsafe { slice::from_raw_parts(start.cast(), length) })
}

fn text_of(text: *const c_char) -> String {
    if text.is_null() {
        return String::new();
    }
    // SAFETY: librdkafka's texts end with a zero.
    unsafe { CStr::from_ptr(text) }.to_string_lossy().into_owned()
}

/// Messages that were taken together; freed together.
pub struct Batch<'q> {
    messages: Vec<*mut rd_kafka_message_t>,
    queue: PhantomData<&'q ()>,
}

impl Batch<'_> {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.messages.len()
    }

    /// The messages, those of one partition in their order.
    pub fn iter(&self) -> impl Iterator<Item = Message<'_>> {
        // SAFETY: the pointers came from librdkafka, are not null, and are freed when the batch is dropped.
        self.messages.iter().map(|message| Message(unsafe { &**message }))
    }
}

impl Drop for Batch<'_> {
    fn drop(&mut self) {
        // SAFETY: each was given to us once, and nobody borrows it any more.
        self.messages.iter().for_each(|message| unsafe { rd_kafka_message_destroy(*message) });
    }
}

/// The queue that all partitions of a consumer are forwarded to.
pub struct DataQueue<C: ConsumerContext> {
    queue: *mut rd_kafka_queue_t,
    consumer: Arc<BaseConsumer<C>>,
}

// SAFETY: librdkafka's queues may be used from any thread; the consumer that they belong to is kept alive.
unsafe impl<C: ConsumerContext> Send for DataQueue<C> {}

impl<C: ConsumerContext> DataQueue<C> {
    /// An empty queue.
    pub fn new(consumer: Arc<BaseConsumer<C>>) -> Self {
        // SAFETY: the client is alive.
        let queue = unsafe { rd_kafka_queue_new(consumer.client().native_ptr()) };
        Self { queue, consumer }
    }

    /// From now on what the partition delivers comes here.
    pub fn adopt(&self, topic: &str, partition: i32) {
        let Ok(topic) = CString::new(topic) else { return };
        // SAFETY: client, name and both queues are alive; the partition's handle is given back at once.
        unsafe {
            let own = rd_kafka_queue_get_partition(self.consumer.client().native_ptr(), topic.as_ptr(), partition);
            if !own.is_null() {
                rd_kafka_queue_forward(own, self.queue);
                rd_kafka_queue_destroy(own);
            }
        }
    }

    /// Waits for a message, up to `patience`, and takes with it all that are there: a call that waits for a full batch would
    /// wait out its time for every batch that is not full.
    pub fn take(&self, patience: Duration) -> Batch<'_> {
        let mut batch = Batch { messages: Vec::with_capacity(BATCH), queue: PhantomData };
        // SAFETY: the queue is alive; the call writes at most as many pointers as there is room for.
        unsafe {
            let first = rd_kafka_consume_queue(self.queue, millis(patience));
            if first.is_null() {
                return batch;
            }
            batch.messages.push(first);
            let room = batch.messages.spare_capacity_mut();
            let taken = rd_kafka_consume_batch_queue(self.queue, 0, room.as_mut_ptr().cast(), BATCH - 1);
            batch.messages.set_len(1 + usize::try_from(taken).unwrap_or(0));
        }
        batch
    }
}

impl<C: ConsumerContext> Drop for DataQueue<C> {
    fn drop(&mut self) {
        // SAFETY: made by us, used by nobody else; the consumer is still alive.
        unsafe { rd_kafka_queue_destroy(self.queue) }
    }
}

/// A topic as the cluster describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Described {
    /// Its name.
    pub name: String,
    /// Made with the topic and never given again; none before Kafka 2.8.
    pub id: Option<String>,
    /// Its partitions are numbered from 0.
    pub partitions: i32,
    /// Those that no broker leads now: none of their copies is alive, or an election is under way.
    pub leaderless: Vec<i32>,
    /// Why it cannot be described.
    pub error: Option<(NotThere, String)>,
}

/// Why a topic cannot be described.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotThere {
    /// There is no such topic.
    Unknown,
    /// This user may not see it.
    Denied,
    /// The cluster is busy with it.
    Passing,
}

/// Which offset of a partition is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Which {
    /// The first that is still there.
    Earliest,
    /// The last stable offset: behind the last message that a reader of committed messages can see now.
    LastStable,
    /// The first at this time or after it, in milliseconds since 1970.
    At(i64),
}

/// An answer of the cluster that was asked for, with all that has to be freed after it.
struct Asked {
    queue: *mut rd_kafka_queue_t,
    options: *mut rd_kafka_AdminOptions_t,
    event: *mut rd_kafka_event_t,
}

impl Asked {
    fn new<C: ConsumerContext>(consumer: &BaseConsumer<C>, operation: rd_kafka_admin_op_t, patience: Duration) -> Self {
        let client = consumer.client().native_ptr();
        let mut words = [0; 256];
        // SAFETY: the client is alive; the time-out is written into options that we own.
        unsafe {
            let options = rd_kafka_AdminOptions_new(client, operation);
            rd_kafka_AdminOptions_set_request_timeout(options, millis(patience), words.as_mut_ptr(), words.len());
            Self { queue: rd_kafka_queue_new(client), options, event: ptr::null_mut() }
        }
    }

    fn wait(&mut self, patience: Duration) -> Result<(), String> {
        // SAFETY: the queue is ours; an event that it gives is ours to free.
        unsafe {
            // The request's own time-out comes first.
            self.event = rd_kafka_queue_poll(self.queue, millis(patience).saturating_add(1000));
            if self.event.is_null() {
                return Err("no answer".to_owned());
            }
            match rd_kafka_event_error(self.event) {
                rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR => Ok(()),
                _ => Err(text_of(rd_kafka_event_error_string(self.event))),
            }
        }
    }
}

impl Drop for Asked {
    fn drop(&mut self) {
        // SAFETY: all three are ours; freeing no event is allowed.
        unsafe {
            if !self.event.is_null() {
                rd_kafka_event_destroy(self.event);
            }
            rd_kafka_AdminOptions_destroy(self.options);
            rd_kafka_queue_destroy(self.queue);
        }
    }
}

/// Describes topics. Blocks.
pub fn describe<C: ConsumerContext>(
    consumer: &BaseConsumer<C>,
    topics: &[String],
    patience: Duration,
) -> Result<Vec<Described>, String> {
    let names: Vec<CString> = topics.iter().filter_map(|name| CString::new(name.as_str()).ok()).collect();
    let mut pointers: Vec<*const c_char> = names.iter().map(|name| name.as_ptr()).collect();
    let mut asked = Asked::new(consumer, rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBETOPICS, patience);
    // SAFETY: the names outlive the request; the collection is freed after it was copied into the request.
    unsafe {
        let collection = rd_kafka_TopicCollection_of_topic_names(pointers.as_mut_ptr(), pointers.len());
        rd_kafka_DescribeTopics(consumer.client().native_ptr(), collection, asked.options, asked.queue);
        rd_kafka_TopicCollection_destroy(collection);
    }
    asked.wait(patience)?;
    // SAFETY: the result and what it holds live as long as the event, which lives to the end of this function.
    unsafe {
        let result = rd_kafka_event_DescribeTopics_result(asked.event);
        let mut count = 0;
        let found = rd_kafka_DescribeTopics_result_topics(result, &raw mut count);
        Ok((0..count).map(|index| described(*found.add(index))).collect())
    }
}

fn not_there(code: rd_kafka_resp_err_t) -> NotThere {
    match code {
        rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART
        | rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR__UNKNOWN_TOPIC
        | rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_TOPIC_EXCEPTION => NotThere::Unknown,
        rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED => NotThere::Denied,
        _ => NotThere::Passing,
    }
}

/// # Safety
/// The description must be alive.
unsafe fn described(topic: *const rd_kafka_TopicDescription_t) -> Described {
    // SAFETY: what a description points to lives as long as it does.
    unsafe {
        let error = rd_kafka_TopicDescription_error(topic);
        let code = rd_kafka_error_code(error);
        let id = rd_kafka_TopicDescription_topic_id(topic);
        let has_id = !id.is_null()
            && (rd_kafka_Uuid_most_significant_bits(id) != 0 || rd_kafka_Uuid_least_significant_bits(id) != 0);
        let mut count = 0;
        let first = rd_kafka_TopicDescription_partitions(topic, &raw mut count);
        let partitions = (0..count).map(|index| *first.add(index));
        let leaderless = partitions.filter(|one| rd_kafka_TopicPartitionInfo_leader(*one).is_null());
        Described {
            name: text_of(rd_kafka_TopicDescription_name(topic)),
            id: has_id.then(|| text_of(rd_kafka_Uuid_base64str(id))),
            partitions: i32::try_from(count).unwrap_or(i32::MAX),
            leaderless: leaderless.map(|one| rd_kafka_TopicPartitionInfo_partition(one)).collect(),
            error: (code != rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR)
                .then(|| (not_there(code), text_of(rd_kafka_error_string(error)))),
        }
    }
}

/// Offsets of partitions, in their order; -1 where no message is as young as the time asked for. Blocks.
pub fn offsets<C: ConsumerContext>(
    consumer: &BaseConsumer<C>,
    partitions: &[(String, i32)],
    which: Which,
    patience: Duration,
) -> Result<Vec<i64>, String> {
    if partitions.is_empty() {
        return Ok(Vec::new());
    }
    let mut asked = Asked::new(consumer, rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_LISTOFFSETS, patience);
    let wanted = match which {
        Which::Earliest => -2,
        Which::LastStable => -1,
        Which::At(millis) => millis,
    };
    let committed = rd_kafka_IsolationLevel_t::RD_KAFKA_ISOLATION_LEVEL_READ_COMMITTED;
    // SAFETY: the list is ours and freed after it was copied into the request; names are copied into the list.
    unsafe {
        let refused = rd_kafka_AdminOptions_set_isolation_level(asked.options, committed);
        if !refused.is_null() {
            rd_kafka_error_destroy(refused);
        }
        let list = rd_kafka_topic_partition_list_new(i32::try_from(partitions.len()).unwrap_or(0));
        for (topic, partition) in partitions {
            let Ok(topic) = CString::new(topic.as_str()) else { continue };
            (*rd_kafka_topic_partition_list_add(list, topic.as_ptr(), *partition)).offset = wanted;
        }
        rd_kafka_ListOffsets(consumer.client().native_ptr(), list, asked.options, asked.queue);
        rd_kafka_topic_partition_list_destroy(list);
    }
    asked.wait(patience)?;
    let mut found = std::collections::HashMap::new();
    // SAFETY: as in `describe`.
    unsafe {
        let result = rd_kafka_event_ListOffsets_result(asked.event);
        let mut count = 0;
        let infos = rd_kafka_ListOffsets_result_infos(result, &raw mut count);
        for index in 0..count {
            let one = &*rd_kafka_ListOffsetsResultInfo_topic_partition(*infos.add(index));
            let topic = text_of(one.topic);
            if one.err != rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR {
                return Err(format!(
                    "partition {} of `{topic}`: {}",
                    one.partition,
                    text_of(rd_kafka_err2str(one.err))
                ));
            }
            // A request that a broker has not answered leaves no error here (`rd_kafka_ListOffsets_response_merge`), but the
            // offsets that stood there before it was sent.
            if one.offset == i64::from(RD_KAFKA_OFFSET_INVALID) {
                return Err(format!("partition {} of `{topic}`: no answer", one.partition));
            }
            found.insert((topic, one.partition), one.offset);
        }
    }
    let offset = |key| found.get(key).copied().ok_or_else(|| "an answer without all partitions".to_owned());
    partitions.iter().map(offset).collect()
}

fn millis(time: Duration) -> i32 {
    i32::try_from(time.as_millis()).unwrap_or(i32::MAX)
}
