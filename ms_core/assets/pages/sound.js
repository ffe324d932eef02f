"use strict";
// One player at a time, and a playhead in each spectrogram. Without this script the players still play.
(() => {
  const players = [...document.querySelectorAll("audio")];

  function place(player) {
    const figure = player.closest("figure");
    figure.querySelector(".head").style.left = (100 * player.currentTime) / Number(figure.dataset.span) + "%";
  }

  function follow(player) {
    place(player);
    if (!player.paused) requestAnimationFrame(() => follow(player));
  }

  for (const player of players) {
    const figure = player.closest("figure");
    player.addEventListener("play", () => {
      for (const other of players) if (other !== player) other.pause();
      figure.classList.add("playing");
      follow(player);
    });
    for (const event of ["pause", "ended"]) {
      player.addEventListener(event, () => figure.classList.remove("playing"));
    }
    player.addEventListener("seeked", () => place(player));
    figure.querySelector(".picture").addEventListener("click", (event) => {
      const box = event.currentTarget.getBoundingClientRect();
      player.currentTime = ((event.clientX - box.left) / box.width) * Number(figure.dataset.span);
      player.play();
    });
  }
})();
