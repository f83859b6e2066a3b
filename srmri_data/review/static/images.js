// The slices: fetched once, the urgent ones first, kept up to a fixed amount of memory.

import { getPixels } from "./api.js";

const CONNECTIONS = 4;

export function lowKey(item, reviewer) {
  return `/api/image/lr/${item}?reviewer=${encodeURIComponent(reviewer)}`;
}

export function highKey(hr, matched) {
  return `/api/image/hr/${hr}?match=${matched ? 1 : 0}`;
}

export class ImageCache {
  constructor(limitBytes = 384 << 20) {
    this.limit = limitBytes;
    this.bytes = 0;
    this.images = new Map(); // in order of last use
    this.wanted = new Map(); // key -> {promise, resolve, reject, priority, started}
    this.active = 0;
  }

  peek(key) {
    const image = this.images.get(key);
    if (image) {
      this.images.delete(key);
      this.images.set(key, image);
    }
    return image;
  }

  // Lower priority numbers go first; asking again may only make an image more urgent.
  load(key, priority = 0) {
    const image = this.peek(key);
    if (image) return Promise.resolve(image);
    let job = this.wanted.get(key);
    if (job) {
      job.priority = Math.min(job.priority, priority);
    } else {
      job = { priority, started: false };
      job.promise = new Promise((resolve, reject) => Object.assign(job, { resolve, reject }));
      // A prefetch that fails is asked for again when it is needed.
      job.promise.catch(() => {});
      this.wanted.set(key, job);
    }
    this.#start();
    return job.promise;
  }

  // What was only fetched ahead is given up: another item was opened.
  forgetPrefetches() {
    for (const [key, job] of this.wanted) {
      if (!job.started) {
        job.reject(new DOMException("no longer needed", "AbortError"));
        this.wanted.delete(key);
      }
    }
  }

  #start() {
    while (this.active < CONNECTIONS) {
      let best = null;
      for (const [key, job] of this.wanted) {
        if (!job.started && (best === null || job.priority < best[1].priority)) best = [key, job];
      }
      if (best === null) return;
      this.#fetch(...best);
    }
  }

  async #fetch(key, job) {
    job.started = true;
    this.active += 1;
    try {
      const image = await getPixels(key);
      this.images.set(key, image);
      this.bytes += image.byteLength;
      this.#evict();
      job.resolve(image);
    } catch (error) {
      job.reject(error);
    } finally {
      this.wanted.delete(key);
      this.active -= 1;
      this.#start();
    }
  }

  #evict() {
    for (const [key, image] of this.images) {
      if (this.bytes <= this.limit) return;
      this.images.delete(key);
      this.bytes -= image.byteLength;
    }
  }
}
